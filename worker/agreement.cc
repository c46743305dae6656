#include "worker/agreement.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "common/strings.h"
#include "worker/comm/packed_text.h"

namespace echelon {

namespace {

// One gather of fixed size. Fingerprints are hashes and short names; what is longer is cut off, and
// the coordinator still compares the whole.
struct PackedCard {
  char host[64] = {};
  char weights[96] = {};
  char numerics[348] = {};
  char passed_over[384] = {};
  int32_t stage = 0;
};

// "cpu/avx2/v1 (auto: backend "cuda": this host has no NVIDIA driver ...)"
std::string NumericsOf(const PackedCard& card) {
  if (card.passed_over[0] == '\0') return card.numerics;
  return StrCat(card.numerics, " (auto: ", card.passed_over, ")");
}

}  // namespace

Result<std::string> CheckAgreement(Communicator& world, const RankCard& mine) {
  PackedCard packed;
  PutText(packed.host, mine.host);
  PutText(packed.weights, mine.weights);
  PutText(packed.numerics, mine.numerics);
  PutText(packed.passed_over, mine.passed_over);
  packed.stage = mine.stage;
  std::vector<PackedCard> cards(world.size());
  world.Wait(world.AllGather(&packed, cards.data(), sizeof(PackedCard)));
  std::map<int, int> leads;  // of each stage, its first rank
  for (int rank = 0; rank < world.size(); ++rank) {
    const PackedCard& card = cards[rank];
    const auto differ = [&](int other, const char* what, const std::string& theirs,
                            const std::string& firsts, const char* remedy) {
      return InvalidArgument(StrCat("rank ", rank, " on host ", card.host, " has ", what, " ",
                                    theirs, ", rank ", other, " on host ", cards[other].host,
                                    " has ", firsts, ": ", remedy));
    };
    if (std::strcmp(card.weights, cards[0].weights) != 0) {
      return differ(0, "weights", card.weights, cards[0].weights,
                    "the model's files differ between these hosts; copy the same ones to both");
    }
    const int lead = leads.try_emplace(card.stage, rank).first->second;
    if (std::strcmp(card.numerics, cards[lead].numerics) != 0) {
      return differ(lead, "numerics", NumericsOf(card), NumericsOf(cards[lead]),
                    "set worker.backend and worker.isa to what every host has");
    }
  }
  std::vector<std::string> of_stages;
  for (const auto& [stage, lead] : leads) of_stages.push_back(cards[lead].numerics);
  const bool all_same = std::ranges::count(of_stages, of_stages[0]) == std::ssize(of_stages);
  return all_same ? of_stages[0] : Join(of_stages, " then ");
}

MemoryShare ShareMemory(Communicator& world, const Backend& backend, int ranks_on_host) {
  struct PackedId {
    char text[64] = {};
  };
  PackedId mine;
  PutText(mine.text, backend.MemoryId());
  const uint64_t free = backend.FreeMemoryBytes();  // nobody loads before all have met
  std::vector<PackedId> ids(static_cast<size_t>(world.size()));
  world.Wait(world.AllGather(&mine, ids.data(), sizeof(mine)));
  const auto same = std::ranges::count_if(
      ids, [&](const PackedId& id) { return std::strcmp(id.text, mine.text) == 0; });
  const int ranks = mine.text[0] == '\0' ? ranks_on_host : static_cast<int>(same);
  return {ranks, free / static_cast<uint64_t>(ranks)};
}

}  // namespace echelon
