#include "kernels/cuda/cuda_mailboxes.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/strings.h"

namespace echelon::cuda {

namespace {

constexpr uint64_t kFarewellNs = 1'000'000'000;
// All ranks come to Try together, behind a message between their hosts.
constexpr uint64_t kTryNs = 5'000'000'000;

// For Share, which asks for an owner's buffer.
class View : public DeviceBuffer {
 public:
  explicit View(const DeviceMemory& memory) : memory_(memory) {}
  void* data() override { return memory_.data(); }
  size_t bytes() const override { return memory_.bytes(); }

 private:
  const DeviceMemory& memory_;
};

MailItem ItemOf(const OutgoingMessage& message) {
  char* const data = static_cast<char*>(const_cast<void*>(message.data));  // only read
  return {data, static_cast<int64_t>(message.bytes), static_cast<int16_t>(message.to), -1, true};
}
MailItem ItemOf(const IncomingMessage& message) {
  return {static_cast<char*>(message.data), static_cast<int64_t>(message.bytes),
          static_cast<int16_t>(message.from), -1, false};
}

// Behind those before it that go the same way.
void Add(MailParams& params, MailItem item) {
  CHECK(0 <= item.rank && item.rank < params.ranks && item.rank != params.rank);
  for (int i = 0; i < params.item_count; ++i) {
    const MailItem& before = params.items[i];
    if (before.rank != item.rank || before.outgoing != item.outgoing) continue;
    item.after = static_cast<int16_t>(i);
  }
  params.items[params.item_count++] = item;
}

}  // namespace

Result<std::unique_ptr<Mailboxes>> CudaMailboxes::Create(CudaLink& link,
                                                         const MailboxOptions& options) {
  CHECK(0 <= options.rank && options.rank < options.ranks && options.ranks <= kMailRanksMax);
  Device& device = link.device();
  ASSIGN_OR_RETURN(DeviceMemory memory,
                   device.Allocate(MailBytes(options.ranks), "memory for other ranks' messages"));
  device.Clear(memory.data(), sizeof(MailCounts));
  device.Wait();
  std::unique_ptr<CudaMailboxes> made(new CudaMailboxes(link, std::move(memory)));
  void* report = nullptr;
  if (!device.AllocatePinned(sizeof(uint64_t), &report)) return *device.failure();
  MailParams& params = made->params_;
  params.report = static_cast<uint64_t*>(report);
  *params.report = 0;
  params.rank = options.rank;
  params.ranks = options.ranks;
  params.wait_ns = static_cast<uint64_t>(options.wait_ms) * 1'000'000;
  View view(made->memory_);
  made->handle_ = link.Share(view);
  return std::unique_ptr<Mailboxes>(std::move(made));
}

CudaMailboxes::CudaMailboxes(CudaLink& link, DeviceMemory memory)
    : link_(link), memory_(std::move(memory)) {}

CudaMailboxes::~CudaMailboxes() {
  Device& device = link_.device();
  if (!mapped_.empty()) {
    MailParams params = params_;
    params.wait_ns = kFarewellNs;
    const auto launch = [&](Stream stream) {
      LaunchMailFarewell(stream, params);
      return Status();
    };
    link_.Join(link_.Enqueue({}, launch));
  }
  device.Wait();
  if (params_.report != nullptr) device.runtime().FreePinned(params_.report);
  if (mapped_elsewhere_) memory_.LeaveToProcess();
}

Status CudaMailboxes::Connect(std::span<const PeerHandle> of_ranks) {
  CHECK(std::ssize(of_ranks) == params_.ranks && mapped_.empty());
  std::vector<std::unique_ptr<DeviceBuffer>> mapped;
  for (int rank = 0; rank < params_.ranks; ++rank) {
    void* data = memory_.data();
    if (rank != params_.rank) {
      ASSIGN_OR_RETURN(mapped.emplace_back(), link_.Map(of_ranks[static_cast<size_t>(rank)]));
      data = mapped.back()->data();
      mapped_elsewhere_ |= of_ranks[static_cast<size_t>(rank)].process != handle_.process;
    }
    params_.of_rank[rank] = static_cast<MailCounts*>(data);
  }
  mapped_ = std::move(mapped);
  return {};
}

Status CudaMailboxes::Pass(std::span<const OutgoingMessage> sends,
                           std::span<const IncomingMessage> recvs, void* stream) {
  MailParams params = params_;
  // More than one kernel takes go in several, of sends and receives in equal parts.
  while (!sends.empty() || !recvs.empty()) {
    params.item_count = 0;
    const size_t out = std::min<size_t>(sends.size(), kMailItemsMax / 2);
    const size_t in = std::min<size_t>(recvs.size(), kMailItemsMax / 2);
    for (const OutgoingMessage& message : sends.first(out)) Add(params, ItemOf(message));
    for (const IncomingMessage& message : recvs.first(in)) Add(params, ItemOf(message));
    LaunchMail(stream, params);
    sends = sends.subspan(out);
    recvs = recvs.subspan(in);
  }
  return {};
}

Status CudaMailboxes::AllGather(const void* send, void* recv, size_t bytes, void* stream) {
  MailParams params = params_;
  auto* const all = static_cast<char*>(recv);
  params.own_from = static_cast<const char*>(send);
  params.own_to = all + static_cast<size_t>(params.rank) * bytes;
  params.own_bytes = params.own_from == params.own_to ? 0 : static_cast<int64_t>(bytes);
  // Each rank begins with the next one, so that no two send to the same first.
  for (int step = 1; step < params.ranks; ++step) {
    Add(params, ItemOf(OutgoingMessage{send, bytes, (params.rank + step) % params.ranks}));
  }
  for (int step = 1; step < params.ranks; ++step) {
    const int from = (params.rank - step + params.ranks) % params.ranks;
    Add(params, ItemOf(IncomingMessage{all + static_cast<size_t>(from) * bytes, bytes, from}));
  }
  LaunchMail(stream, params);
  return {};
}

Status CudaMailboxes::Try() {
  CHECK(!mapped_.empty() && params_.ranks > 1);
  constexpr size_t kWords = kMailPieceBytes / sizeof(uint32_t);
  const auto ranks = static_cast<size_t>(params_.ranks), own = static_cast<size_t>(params_.rank);
  std::vector<uint32_t> want(ranks * kWords), got(want.size());
  std::iota(want.begin(), want.end(), 1);
  Device& device = link_.device();
  ASSIGN_OR_RETURN(tried_, device.Allocate(ranks * kMailPieceBytes, "a first message"));
  auto* const all = reinterpret_cast<uint32_t*>(tried_.data());
  device.Clear(all, ranks * kMailPieceBytes);
  device.CopyIn(all + own * kWords, want.data() + own * kWords, kMailPieceBytes);
  const uint64_t wait_ns = std::exchange(params_.wait_ns, std::min(params_.wait_ns, kTryNs));
  const auto gather = [&](Stream stream) {
    return AllGather(all + own * kWords, all, kMailPieceBytes, stream);
  };
  link_.Join(link_.Enqueue({}, gather));
  params_.wait_ns = wait_ns;
  device.Wait();  // a copy to pageable memory may hold up launches of other threads while it waits
  device.CopyOut(got.data(), all, ranks * kMailPieceBytes);
  device.Wait();
  if (device.failure()) return *device.failure();
  const auto unlike = std::mismatch(want.begin(), want.end(), got.begin()).first - want.begin();
  const auto missing = unanswered();
  if (!missing && unlike == std::ssize(want)) return {};
  const int rank = missing ? missing->rank : static_cast<int>(static_cast<size_t>(unlike) / kWords);
  return Unsupported(StrCat(
      link_.card().name, ": the driver says that it and the device of rank ", rank,
      " of the group reach each other's memory, but a message between them does not arrive: see "
      "the IOMMU's settings, or let ranks of this host exchange by another way"));
}

std::optional<Mailboxes::Unanswered> CudaMailboxes::unanswered() const {
  const uint64_t report = std::atomic_ref(*params_.report).load(std::memory_order_acquire);
  if (report == 0) return std::nullopt;
  return Unanswered{static_cast<int>((report - 1) / 2), (report - 1) % 2 == 1};
}

}  // namespace echelon::cuda
