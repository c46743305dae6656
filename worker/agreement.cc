#include "worker/agreement.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/strings.h"

namespace echelon {

namespace {

// One gather of fixed size. Fingerprints are hashes and short names; what is longer is cut off, and
// the coordinator still compares the whole.
struct PackedCard {
  char host[64] = {};
  char weights[96] = {};
  char numerics[352] = {};
};

template <size_t kSize>
void Put(char (&field)[kSize], const std::string& text) {
  std::memcpy(field, text.data(), std::min(text.size(), kSize - 1));
}

}  // namespace

Status CheckAgreement(Communicator& world, const RankCard& mine) {
  PackedCard packed;
  Put(packed.host, mine.host);
  Put(packed.weights, mine.weights);
  Put(packed.numerics, mine.numerics);
  std::vector<PackedCard> cards(world.size());
  world.Wait(world.AllGather(&packed, cards.data(), sizeof(PackedCard)));
  const PackedCard& first = cards[0];
  for (int rank = 1; rank < world.size(); ++rank) {
    const PackedCard& card = cards[rank];
    const auto differ = [&](const char* what, const char* theirs, const char* firsts,
                            const char* remedy) {
      return InvalidArgument(StrCat("rank ", rank, " on host ", card.host, " has ", what, " ",
                                    theirs, ", rank 0 on host ", first.host, " has ", firsts, ": ",
                                    remedy));
    };
    if (std::strcmp(card.weights, first.weights) != 0) {
      return differ("weights", card.weights, first.weights,
                    "the model's files differ between these hosts; copy the same ones to both");
    }
    if (std::strcmp(card.numerics, first.numerics) != 0) {
      return differ("numerics", card.numerics, first.numerics,
                    "set worker.backend and worker.isa to what every host has");
    }
  }
  return {};
}

}  // namespace echelon
