#pragma once
// Names and addresses of this machine, for joining ranks over the right interface. Linux only.

#include <cstdint>
#include <optional>
#include <string>

#include "common/result.h"

namespace echelon {

std::string HostName();

// "10.99.0.1 (eth0)": the local address, and its interface, from which packets to `host` leave; ""
// when there is no route. Sends nothing.
std::string InterfaceTowards(const std::string& host);

// The IPv4 address of this machine on an interface given by name ("eth0") or network
// ("10.99.0.0/24"). The error lists what there is.
Result<std::string> AddressOn(const std::string& interface);
// The same interface's name on this machine.
Result<std::string> InterfaceOn(const std::string& interface);

// "tcp://host:port" taken apart.
struct Endpoint {
  std::string host;
  uint16_t port = 0;
};
Result<Endpoint> ParseEndpoint(const std::string& text);

// True for "localhost", 127.0.0.0/8 and names and addresses of this machine.
bool IsThisHost(const std::string& host);

}  // namespace echelon
