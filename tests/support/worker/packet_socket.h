#pragma once
// PacketSocket: whole messages between two processes of one host, over a Unix socket
// (SOCK_SEQPACKET). Its name is in no file system, so nothing is left behind by whoever is killed.
// One thread at a time; Send may be called beside it.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace echelon::testing {

// `kind` is the caller's; an empty `body` is fine.
struct Packet {
  char kind = 0;
  std::string body;
};

class PacketSocket {
 public:
  enum class Outcome { kPacket, kNothing, kGone };

  // Waits for others to connect, by a name of this host that nobody has: at most 107 bytes.
  static Result<PacketSocket> Listen(const std::string& name);
  // One try; an error where nobody listens (yet).
  static Result<PacketSocket> Connect(const std::string& name);
  PacketSocket(PacketSocket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  PacketSocket& operator=(PacketSocket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~PacketSocket();

  std::optional<PacketSocket> Accept(int64_t timeout_ms);
  // Does not wait: false where the other end is gone, or has read nothing for long.
  bool Send(char kind, std::string_view body = {});
  Outcome Receive(Packet* packet, int64_t timeout_ms);

 private:
  explicit PacketSocket(int fd) : fd_(fd) {}
  bool AwaitReadable(int64_t timeout_ms) const;

  int fd_;
};

}  // namespace echelon::testing
