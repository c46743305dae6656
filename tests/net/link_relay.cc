// An emulated link between hosts that are network namespaces: a small switch whose ports are TAP
// devices, one made inside each namespace, and whose every frame crosses a wire with a latency, a
// rate and faults. It stands where a kernel's netem would, which many machines lack.
//
// As a network card does, the devices take TCP segments of up to 64 KiB whole (segmentation
// offload); such a segment counts as the frames that a wire would carry.
//
//   link_relay /run/netns/A /run/netns/B latency_us=200 rate_mbit=1000 seed=7
//
// Settings (all doubles; also taken from stdin while running, one "name=value" a line):
//   latency_us: from the end of a frame's sending to its arrival
//   jitter_us: added to the latency, uniform in [0, jitter_us); order is kept
//   rate_mbit: at which each host sends; 0: no limit
//   loss, reorder, duplicate: probabilities of a frame (of a segment where it is lost: that one of
//     its frames is); a reordered one arrives one latency late
//   stalled: not 0: nothing arrives until it is 0 again
//   queue_kib: frames that wait to be sent beyond this are dropped, as by a switch
//   seed: of each port's random numbers
// Every line is answered by a line of JSON, once it is in force. A line "stats" prints what
// happened since the last one: frames and bytes, frames dropped, how late frames were delivered
// against their due time (the error of the emulation), and the processor time this program took.
// End of stdin ends it.

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

// What the kernel puts before each frame: linux/virtio_net.h's virtio_net_hdr, which C++ cannot
// include ("class" is a field of it). A device writes and reads it alike.
struct Offload {
  uint8_t flags, segmented;
  uint16_t header_bytes, segment_bytes, checksum_start, checksum_offset;
};
constexpr size_t kOffloadBytes = sizeof(Offload);
constexpr size_t kFrameBytesMax = kOffloadBytes + 65536 + 18;
constexpr char kInterface[] = "eth0";

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "link_relay: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

int64_t NowNs() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

double CpuSeconds() {
  timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

class Settings {
 public:
  double operator[](const char* name) const { return values_.at(name); }
  // "name=value"; false where it is not one of ours.
  bool Set(const std::string& text) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos) return false;
    const auto at = values_.find(text.substr(0, equals));
    if (at == values_.end()) return false;
    char* end = nullptr;
    at->second = std::strtod(text.c_str() + equals + 1, &end);
    return end != text.c_str() + equals + 1 && *end == '\0' && at->second >= 0.0;
  }

 private:
  std::map<std::string, double> values_ = {
      {"latency_us", 0}, {"jitter_us", 0}, {"rate_mbit", 0}, {"loss", 0},         {"reorder", 0},
      {"duplicate", 0},  {"stalled", 0},   {"seed", 1},      {"queue_kib", 16384}};
};

// What a device handed over.
struct Taken {
  std::array<uint8_t, kFrameBytesMax> bytes;
  size_t size = 0;

  const uint8_t* frame() const { return bytes.data() + kOffloadBytes; }
};

// What a wire carries of it: a segment of several frames repeats its headers.
struct OnTheWire {
  int64_t frames = 1, bytes;

  explicit OnTheWire(const Taken& taken) {
    Offload offload;
    std::memcpy(&offload, taken.bytes.data(), kOffloadBytes);
    const auto size = static_cast<int64_t>(taken.size - kOffloadBytes);
    const int64_t headers = std::min<int64_t>(offload.header_bytes, size);
    const int64_t segment = offload.segment_bytes;
    if (offload.segmented != 0 && segment > 0) {
      frames = std::max<int64_t>(1, (size - headers + segment - 1) / segment);
    }
    bytes = size + (frames - 1) * headers;
  }
};

// Buffers are used again: the memory of a new one would cost more than the copy into it.
class Pool {
 public:
  std::shared_ptr<Taken> Get() {
    if (free_.empty()) free_.push_back(std::make_unique<Taken>());
    Taken* one = free_.back().release();
    free_.pop_back();
    return {one, [this](Taken* done) { free_.emplace_back(done); }};
  }

 private:
  std::vector<std::unique_ptr<Taken>> free_;
};

struct Frame {
  int64_t due_ns;
  uint64_t number;  // of frames due at the same time the earlier one goes first
  int from, to;
  int64_t wire_bytes;
  std::shared_ptr<const Taken> taken;
  bool operator>(const Frame& other) const {
    return due_ns != other.due_ns ? due_ns > other.due_ns : number > other.number;
  }
};

struct Stats {
  uint64_t frames = 0, bytes = 0, dropped = 0, delivered = 0;
  double late_ns_sum = 0.0, late_ns_max = 0.0;
  double cpu_begin = CpuSeconds();
  int64_t begin_ns = NowNs();
};

// A TAP device belongs to the namespace of the process that opens it.
int OpenTap(const std::string& name_space) {
  const int space = open(name_space.c_str(), O_RDONLY | O_CLOEXEC);
  if (space < 0) Fail(name_space);
  if (setns(space, CLONE_NEWNET) != 0) Fail("setns " + name_space + " (needs root)");
  close(space);
  const int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) Fail("/dev/net/tun");
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  std::strncpy(request.ifr_name, kInterface, IFNAMSIZ - 1);
  if (ioctl(tap, TUNSETIFF, &request) != 0) Fail("TAP device in " + name_space);
  if (ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0) Fail("TUNSETOFFLOAD");
  return tap;
}

class Relay {
 public:
  Relay(Settings settings, const std::vector<std::string>& name_spaces) : settings_(settings) {
    const int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    for (const std::string& name_space : name_spaces) {
      ports_.push_back({OpenTap(name_space), 0, 0, 0,
                        std::mt19937_64(uint64_t(settings_["seed"]) + ports_.size())});
    }
    if (setns(own, CLONE_NEWNET) != 0) Fail("setns back");
    close(own);
  }

  void Run() {
    std::printf("ready\n");
    std::fflush(stdout);
    std::vector<pollfd> items;
    for (const Port& port : ports_) items.push_back({port.tap, POLLIN, 0});
    items.push_back({STDIN_FILENO, POLLIN, 0});
    for (;;) {
      Deliver();
      timespec wait{1, 0};
      if (!queue_.empty() && settings_["stalled"] == 0) {
        const int64_t left = std::max<int64_t>(0, queue_.top().due_ns - NowNs());
        wait = {left / 1'000'000'000, left % 1'000'000'000};
      }
      if (ppoll(items.data(), items.size(), &wait, nullptr) < 0 && errno != EINTR) Fail("poll");
      for (int port = 0; port < static_cast<int>(ports_.size()); ++port) {
        if (items[port].revents & POLLIN) TakeFrames(port);
      }
      if (items.back().revents != 0 && !TakeCommands()) return;
    }
  }

 private:
  struct Port {
    int tap;
    int64_t sent_ns;      // when the wire into the switch is free again
    int64_t received_ns;  // due time of the last frame in order
    int64_t waiting_bytes;
    std::mt19937_64 random;
  };

  static uint64_t Address(const uint8_t* bytes) {
    uint64_t address = 0;
    std::memcpy(&address, bytes, 6);
    return address;
  }

  bool Chance(Port& port, const char* name) {
    return std::uniform_real_distribution<double>()(port.random) < settings_[name];
  }

  void TakeFrames(int from) {
    for (;;) {
      const std::shared_ptr<Taken> taken = pool_.Get();
      const ssize_t size = read(ports_[from].tap, taken->bytes.data(), taken->bytes.size());
      if (size < static_cast<ssize_t>(kOffloadBytes) + 14) return;  // EAGAIN: no more for now
      taken->size = static_cast<size_t>(size);
      addresses_[Address(taken->frame() + 6)] = from;
      const bool group = (taken->frame()[0] & 1) != 0;  // broadcast and multicast
      const auto known = addresses_.find(Address(taken->frame()));
      for (int to = 0; to < static_cast<int>(ports_.size()); ++to) {
        if (to == from || (!group && known != addresses_.end() && known->second != to)) continue;
        Send(from, to, taken);
      }
    }
  }

  void Send(int from, int to, const std::shared_ptr<const Taken>& taken) {
    Port& port = ports_[from];
    const OnTheWire wire(*taken);
    stats_.frames += static_cast<uint64_t>(wire.frames);
    stats_.bytes += static_cast<uint64_t>(wire.bytes);
    const double kept = std::pow(1.0 - settings_["loss"], static_cast<double>(wire.frames));
    if (std::uniform_real_distribution<double>()(port.random) >= kept ||
        port.waiting_bytes > static_cast<int64_t>(settings_["queue_kib"]) * 1024) {
      ++stats_.dropped;
      return;
    }
    const double rate = settings_["rate_mbit"];
    const double wire_ns = rate > 0 ? static_cast<double>(wire.bytes) * 8e3 / rate : 0.0;
    port.sent_ns = std::max(port.sent_ns, NowNs()) + static_cast<int64_t>(wire_ns);
    const double jitter =
        std::uniform_real_distribution<double>(0.0, settings_["jitter_us"] + 1e-9)(port.random);
    const auto latency_ns = static_cast<int64_t>(settings_["latency_us"] * 1e3);
    int64_t due_ns = port.sent_ns + latency_ns + static_cast<int64_t>(jitter * 1e3);
    due_ns = std::max(due_ns, port.received_ns);
    if (Chance(port, "reorder")) {
      due_ns += latency_ns;  // those behind it overtake
    } else {
      port.received_ns = due_ns;
    }
    const int copies = Chance(port, "duplicate") ? 2 : 1;
    for (int copy = 0; copy < copies; ++copy) {
      port.waiting_bytes += wire.bytes;
      queue_.push({due_ns, next_number_++, from, to, wire.bytes, taken});
    }
  }

  void Deliver() {
    if (settings_["stalled"] != 0) return;
    for (int64_t now = NowNs(); !queue_.empty() && queue_.top().due_ns <= now; now = NowNs()) {
      const Frame& frame = queue_.top();
      ports_[frame.from].waiting_bytes -= frame.wire_bytes;
      const Taken& taken = *frame.taken;
      // A full or absent receiver loses frames, as it would on a wire.
      if (write(ports_[frame.to].tap, taken.bytes.data(), taken.size) < 0) ++stats_.dropped;
      ++stats_.delivered;
      const auto late = static_cast<double>(now - frame.due_ns);
      stats_.late_ns_sum += late;
      stats_.late_ns_max = std::max(stats_.late_ns_max, late);
      queue_.pop();
    }
  }

  // False at the end of stdin.
  bool TakeCommands() {
    char buffer[4096];
    const ssize_t size = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (size <= 0) return false;
    pending_.append(buffer, static_cast<size_t>(size));
    for (size_t end; (end = pending_.find('\n')) != std::string::npos; pending_.erase(0, end + 1)) {
      const std::string line = pending_.substr(0, end);
      if (line == "stats") {
        PrintStats();
      } else {
        const bool known = settings_.Set(line);
        std::printf(known ? "{}\n" : "{\"error\": \"not a setting\"}\n");
      }
      std::fflush(stdout);
    }
    return true;
  }

  void PrintStats() {
    const double delivered = std::max<double>(1.0, static_cast<double>(stats_.delivered));
    std::printf(
        "{\"frames\": %llu, \"bytes\": %llu, \"dropped\": %llu, \"late_us_mean\": %.1f, "
        "\"late_us_max\": %.1f, \"cpu_seconds\": %.3f, \"seconds\": %.3f}\n",
        static_cast<unsigned long long>(stats_.frames),
        static_cast<unsigned long long>(stats_.bytes),
        static_cast<unsigned long long>(stats_.dropped), stats_.late_ns_sum / delivered / 1e3,
        stats_.late_ns_max / 1e3, CpuSeconds() - stats_.cpu_begin,
        static_cast<double>(NowNs() - stats_.begin_ns) / 1e9);
    stats_ = Stats();
  }

  Settings settings_;
  std::vector<Port> ports_;
  std::map<uint64_t, int> addresses_;  // learned: who is behind which port
  Pool pool_;
  std::priority_queue<Frame, std::vector<Frame>, std::greater<>> queue_;
  uint64_t next_number_ = 0;
  std::string pending_;
  Stats stats_;
};

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::vector<std::string> name_spaces;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.find('=') == std::string::npos) {
      name_spaces.push_back(word);
    } else if (!settings.Set(word)) {
      std::fprintf(stderr, "link_relay: \"%s\" is not a setting\n", word.c_str());
      return 2;
    }
  }
  if (name_spaces.size() < 2) {
    std::fprintf(stderr, "usage: link_relay NAMESPACE NAMESPACE... [setting=value]...\n");
    return 2;
  }
  // A wire waits for nobody: ahead of the programs that it joins, where the system lets us.
  const sched_param first{.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO, &first) != 0) setpriority(PRIO_PROCESS, 0, -20);
  prctl(PR_SET_TIMERSLACK, 1UL);  // the kernel may not round our waits up by its usual 50 us
  Relay(settings, name_spaces).Run();
}
