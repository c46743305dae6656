#include "tests/support/worker/packet_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/strings.h"

namespace echelon::testing {

namespace {

constexpr size_t kPacketBytesMax = 16 << 10;  // names of the ranks: 64 of 200 bytes
constexpr int kBacklog = 64;

Error SystemError(const std::string& what) {
  return Unavailable(StrCat(what, ": ", std::strerror(errno)));
}

Result<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return InvalidArgument(StrCat(path, ": a socket's path has at most ",
                                  sizeof(address.sun_path) - 1, " bytes: take a shorter folder"));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

int NewSocket() { return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0); }

}  // namespace

Result<PacketSocket> PacketSocket::Listen(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  PacketSocket made(NewSocket());
  if (bind(made.fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(made.fd_, kBacklog) != 0) {
    return SystemError(StrCat("listening at ", path));
  }
  return made;
}

Result<PacketSocket> PacketSocket::Connect(const std::string& path) {
  ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  PacketSocket made(NewSocket());
  if (connect(made.fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError(StrCat("connecting to ", path));
  }
  return made;
}

PacketSocket::~PacketSocket() {
  if (fd_ >= 0) close(fd_);
}

bool PacketSocket::AwaitReadable(int64_t timeout_ms) const {
  pollfd asked{fd_, POLLIN, 0};
  return poll(&asked, 1, static_cast<int>(std::max<int64_t>(timeout_ms, 0))) > 0;
}

std::optional<PacketSocket> PacketSocket::Accept(int64_t timeout_ms) {
  if (!AwaitReadable(timeout_ms)) return std::nullopt;
  const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return std::nullopt;
  return PacketSocket(fd);
}

bool PacketSocket::Send(char kind, std::string_view body) {
  const std::string bytes = StrCat(std::string(1, kind), body);
  return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(bytes.size());
}

PacketSocket::Outcome PacketSocket::Receive(Packet* packet, int64_t timeout_ms) {
  if (!AwaitReadable(timeout_ms)) return Outcome::kNothing;
  std::string bytes(kPacketBytesMax, '\0');
  const ssize_t got = recv(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Outcome::kNothing;
  if (got <= 0) return Outcome::kGone;
  packet->kind = bytes[0];
  packet->body = bytes.substr(1, static_cast<size_t>(got) - 1);
  return Outcome::kPacket;
}

}  // namespace echelon::testing
