#include "common/network.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <memory>
#include <vector>

#include "common/strings.h"

namespace echelon {

namespace {

struct LocalAddress {
  std::string interface;
  in_addr address;
  std::string Text() const {
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &address, text, sizeof(text));
    return text;
  }
};

std::vector<LocalAddress> LocalAddresses() {
  std::vector<LocalAddress> found;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return found;
  for (const ifaddrs* entry = list; entry; entry = entry->ifa_next) {
    if (!entry->ifa_addr || entry->ifa_addr->sa_family != AF_INET) continue;
    found.push_back(
        {entry->ifa_name, reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr});
  }
  freeifaddrs(list);
  return found;
}

std::optional<in_addr> Resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &list) != 0 || !list) return std::nullopt;
  const in_addr address = reinterpret_cast<const sockaddr_in*>(list->ai_addr)->sin_addr;
  freeaddrinfo(list);
  return address;
}

// True when `address` lies in "10.99.0.0/24".
bool InNetwork(in_addr address, const std::string& cidr) {
  const size_t slash = cidr.find('/');
  if (slash == std::string::npos) return false;
  in_addr network;
  if (inet_pton(AF_INET, cidr.substr(0, slash).c_str(), &network) != 1) return false;
  int bits = -1;
  const char* end = cidr.data() + cidr.size();
  const auto [rest, error] = std::from_chars(cidr.data() + slash + 1, end, bits);
  if (error != std::errc() || rest != end || bits < 0 || bits > 32) return false;
  const uint32_t mask = bits == 0 ? 0 : ~uint32_t{0} << (32 - bits);
  return ((ntohl(address.s_addr) ^ ntohl(network.s_addr)) & mask) == 0;
}

// `interface`: a name, or a network.
Result<LocalAddress> LocalAddressOn(const std::string& interface) {
  std::vector<std::string> known;
  for (const LocalAddress& entry : LocalAddresses()) {
    if (entry.interface == interface || InNetwork(entry.address, interface)) return entry;
    known.push_back(StrCat(entry.interface, " ", entry.Text()));
  }
  return InvalidArgument(
      StrCat("group.interface \"", interface, "\": host ", HostName(),
             " has no such interface or network (it has: ", Join(known, ", "), ")"),
      "group.interface");
}

}  // namespace

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

std::string InterfaceTowards(const std::string& host) {
  const auto target = Resolve(host);
  if (!target) return "";
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return "";
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(9);  // any port: connecting a datagram socket only chooses the route
  peer.sin_addr = *target;
  sockaddr_in local{};
  socklen_t size = sizeof(local);
  const bool found = connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0;
  close(fd);
  if (!found) return "";
  const std::string text = LocalAddress{"", local.sin_addr}.Text();
  for (const LocalAddress& entry : LocalAddresses()) {
    if (entry.address.s_addr == local.sin_addr.s_addr) {
      return StrCat(text, " (", entry.interface, ")");
    }
  }
  return text;
}

Result<std::string> AddressOn(const std::string& interface) {
  ASSIGN_OR_RETURN(const LocalAddress found, LocalAddressOn(interface));
  return found.Text();
}

Result<std::string> InterfaceOn(const std::string& interface) {
  ASSIGN_OR_RETURN(const LocalAddress found, LocalAddressOn(interface));
  return found.interface;
}

Result<Endpoint> ParseEndpoint(const std::string& text) {
  constexpr std::string_view kScheme = "tcp://";
  const size_t colon = text.rfind(':');
  Endpoint endpoint;
  const char* end = text.data() + text.size();
  if (text.rfind(kScheme, 0) == 0 && colon != std::string::npos && colon > kScheme.size()) {
    endpoint.host = text.substr(kScheme.size(), colon - kScheme.size());
    const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, endpoint.port);
    if (error == std::errc() && rest == end) return endpoint;
  }
  return InvalidArgument(StrCat("endpoint \"", text, "\": must be tcp://host:port"));
}

bool IsThisHost(const std::string& host) {
  if (host == "localhost" || host == HostName()) return true;
  const auto address = Resolve(host);
  if (!address) return false;
  if ((ntohl(address->s_addr) >> 24) == 127) return true;
  for (const LocalAddress& entry : LocalAddresses()) {
    if (entry.address.s_addr == address->s_addr) return true;
  }
  return false;
}

}  // namespace echelon
