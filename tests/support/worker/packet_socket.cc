#include "tests/support/worker/packet_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "common/strings.h"

namespace echelon::testing {

namespace {

constexpr size_t kPacketBytesMax = 16 << 10;  // names of the ranks: 64 of 200 bytes
constexpr int kBacklog = 64;

Error SystemError(const std::string& what) {
  return Unavailable(StrCat(what, ": ", std::strerror(errno)));
}

struct Address {
  sockaddr_un name{};
  socklen_t bytes = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&name); }
};

// Behind a first byte of 0: an abstract name.
Result<Address> AddressOf(const std::string& name) {
  Address address;
  address.name.sun_family = AF_UNIX;
  if (name.size() + 1 > sizeof(address.name.sun_path)) {
    return InvalidArgument(StrCat(name, ": a socket's name has at most ",
                                  sizeof(address.name.sun_path) - 1, " bytes"));
  }
  std::memcpy(address.name.sun_path + 1, name.data(), name.size());
  address.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

int NewSocket() { return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0); }

}  // namespace

Result<PacketSocket> PacketSocket::Listen(const std::string& name) {
  ASSIGN_OR_RETURN(const Address address, AddressOf(name));
  PacketSocket made(NewSocket());
  if (bind(made.fd_, address.get(), address.bytes) != 0 || listen(made.fd_, kBacklog) != 0) {
    return SystemError(StrCat("listening at ", name));
  }
  return made;
}

Result<PacketSocket> PacketSocket::Connect(const std::string& name) {
  ASSIGN_OR_RETURN(const Address address, AddressOf(name));
  PacketSocket made(NewSocket());
  if (connect(made.fd_, address.get(), address.bytes) != 0) {
    return SystemError(StrCat("connecting to ", name));
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
  const auto receive = [&] { return recv(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT); };
  ssize_t got = receive();
  // The other end is gone and had not read everything; what it sent before is still to be had.
  if (got < 0 && errno == ECONNRESET) got = receive();
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Outcome::kNothing;
  if (got <= 0) return Outcome::kGone;
  packet->kind = bytes[0];
  packet->body = bytes.substr(1, static_cast<size_t>(got) - 1);
  return Outcome::kPacket;
}

}  // namespace echelon::testing
