#include "coordinator/rank_table.h"

#include <algorithm>
#include <utility>

#include "common/strings.h"

namespace echelon {

RankTable::RankTable(int world, std::vector<std::string> expected_hosts)
    : expected_hosts_(std::move(expected_hosts)), status_(world), peers_(world) {
  expected_hosts_.resize(world);
  for (int rank = 0; rank < world; ++rank) status_[rank].rank = rank;
}

void RankTable::Reset() {
  for (RankStatus& status : status_) {
    RankStatus fresh;
    fresh.rank = status.rank;
    fresh.last_error = std::move(status.last_error);
    status = std::move(fresh);
  }
  peers_.assign(status_.size(), "");
  ready_message_.reset();
  ready_rank_ = -1;
}

bool RankTable::IsFrom(uint32_t rank, const std::string& peer) const {
  return rank < peers_.size() && !peer.empty() && peers_[rank] == peer;
}

Status RankTable::Join(uint32_t rank, const std::string& peer, const JoinMessage& m) {
  const auto refuse = [&](const std::string& what) {
    Error error = InvalidArgument(StrCat("rank ", rank, " on host ", m.host, ": ", what));
    error.rank = static_cast<int>(rank);
    error.host = m.host;
    return error;
  };
  if (m.protocol != kControlProtocolVersion) {
    return refuse(StrCat("speaks control protocol ", m.protocol, ", the coordinator ",
                         kControlProtocolVersion, ": install the same build on every host"));
  }
  if (m.build != BuildId()) {
    return refuse(StrCat("is build ", m.build, ", the coordinator ", BuildId(),
                         ": install the same build on every host"));
  }
  if (m.world != status_.size() || rank >= status_.size()) {
    return refuse(StrCat("was launched as one of ", m.world, " ranks, the layout has ",
                         status_.size(), " (tp * pp * sp)"));
  }
  RankStatus& status = status_[rank];
  if (status.joined && (status.pid != m.pid || status.host != m.host)) {
    return refuse(StrCat("process ", m.pid, " wants to join, but process ", status.pid, " on host ",
                         status.host, " is this rank already"));
  }
  status.joined = true;
  status.host = m.host;
  status.interface = m.interface;
  status.pid = m.pid;
  peers_[rank] = peer;
  return {};
}

bool RankTable::AllJoined() const {
  return std::all_of(status_.begin(), status_.end(), [](const auto& s) { return s.joined; });
}

bool RankTable::AllReady() const {
  return std::all_of(status_.begin(), status_.end(), [](const auto& s) { return s.ready; });
}

Status RankTable::Ready(int rank, const ReadyMessage& m) {
  RankStatus& status = status_[rank];
  if (ready_message_) {
    const auto differ = [&](const char* what, const auto& theirs, const auto& first,
                            const char* remedy) {
      Error error = InvalidArgument(StrCat(Where(rank), " has ", what, " ", theirs, ", ",
                                           Where(ready_rank_), " has ", first, ": ", remedy));
      error.rank = rank;
      error.host = status.host;
      return error;
    };
    const ReadyMessage& first = *ready_message_;
    if (m.weights_fingerprint != first.weights_fingerprint) {
      return differ("weights", m.weights_fingerprint, first.weights_fingerprint,
                    "the model's files differ between these hosts; copy the same ones to both");
    }
    if (m.numerics_fingerprint != first.numerics_fingerprint) {
      return differ("numerics", m.numerics_fingerprint, first.numerics_fingerprint,
                    "set worker.backend and worker.isa to what every host has");
    }
    if (m.kv_pages != first.kv_pages || m.page_tokens != first.page_tokens ||
        m.context_max != first.context_max || m.vocab_size != first.vocab_size) {
      const auto text = [](const ReadyMessage& r) {
        return StrCat(r.kv_pages, " pages of ", r.page_tokens, ", context ", r.context_max,
                      ", vocabulary ", r.vocab_size);
      };
      return differ("capacity", text(m), text(first), "this is a bug");
    }
  } else {
    ready_message_ = m;
    ready_rank_ = rank;
  }
  status.ready = true;
  status.backend = m.backend;
  status.device = m.device;
  status.weight_bytes = m.weight_bytes;
  status.kv_bytes = m.kv_bytes;
  status.token_bytes = m.token_bytes;
  status.kv_position_bytes = m.kv_position_bytes;
  status.read_bytes_per_s = m.read_bytes_per_s;
  return {};
}

std::string RankTable::OnHost(int rank) const {
  const std::string& host = status_[rank].host.empty() ? expected_hosts_[rank] : status_[rank].host;
  return host.empty() ? StrCat("rank ", rank) : StrCat("rank ", rank, " on host ", host);
}

std::string RankTable::Where(int rank) const {
  const std::string& device = status_[rank].device;
  return device.empty() ? OnHost(rank) : StrCat(OnHost(rank), ", ", device);
}

std::string RankTable::DescribeMissing() const {
  std::vector<std::string> missing;
  for (const RankStatus& status : status_) {
    if (!status.joined) missing.push_back(Where(status.rank));
  }
  return StrCat(status_.size() - missing.size(), " of ", status_.size(),
                " ranks joined; not yet: ", echelon::Join(missing, ", "));
}

std::string RankTable::DescribeLoading() const {
  std::vector<std::string> loading;
  for (const RankStatus& status : status_) {
    if (status.ready) continue;
    loading.push_back(StrCat(Where(status.rank), ": ",
                             status.bytes_total == 0 ? std::string("nothing read yet")
                                                     : StrCat(HumanBytes(status.bytes_done), " of ",
                                                              HumanBytes(status.bytes_total))));
  }
  return echelon::Join(loading, ", ");
}

std::string RankTable::DescribeWaits(int64_t now_us, int64_t silent_us) const {
  constexpr size_t kNamedMax = 4;
  std::vector<const RankStatus*> waiting, silent;
  std::vector<bool> awaited(status_.size());
  for (const RankStatus& status : status_) {
    if (!status.waits.awaited.empty()) waiting.push_back(&status);
    for (const uint32_t rank : status.waits.awaited) {
      if (rank < status_.size()) awaited[rank] = true;
    }
    if (status.joined && now_us - status.last_heard_us > silent_us) silent.push_back(&status);
  }
  std::stable_sort(waiting.begin(), waiting.end(), [](const RankStatus* a, const RankStatus* b) {
    return a->waits.waited_ms > b->waits.waited_ms;
  });
  std::string text;
  for (size_t i = 0; i < std::min(waiting.size(), kNamedMax); ++i) {
    std::vector<std::string> whom;
    for (const uint32_t rank : waiting[i]->waits.awaited) {
      if (rank < status_.size()) whom.push_back(Where(static_cast<int>(rank)));
    }
    text +=
        StrCat("; ", Where(waiting[i]->rank), " has waited ", waiting[i]->waits.waited_ms,
               waiting[i]->waits.on_device ? " ms for its device, which may wait for " : " ms for ",
               echelon::Join(whom, ", "));
  }
  // Of many ranks that wait for each other, the one that holds them up.
  size_t named = 0;
  for (const RankStatus& status : status_) {
    const bool holds_up = awaited[status.rank] && status.waits.awaited.empty() &&
                          now_us - status.last_heard_us <= silent_us;
    if (holds_up && named++ < kNamedMax)
      text += StrCat("; ", Where(status.rank), " waits for nobody");
  }
  for (size_t i = 0; i < std::min(silent.size(), kNamedMax); ++i) {
    text += StrCat("; ", Where(silent[i]->rank), " has not been heard for ",
                   (now_us - silent[i]->last_heard_us) / 1000, " ms");
  }
  return text;
}

}  // namespace echelon
