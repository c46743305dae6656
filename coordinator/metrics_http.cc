#include "coordinator/metrics_http.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <list>
#include <thread>
#include <vector>

#include "common/strings.h"
#include "coordinator/address.h"

namespace echelon {

namespace {

constexpr size_t kConnectionsMax = 64;
constexpr size_t kRequestBytesMax = 8 << 10;
constexpr auto kConnectionTimeMax = std::chrono::seconds(5);
constexpr auto kAcceptAgain = std::chrono::milliseconds(50);

using SteadyTime = std::chrono::steady_clock::time_point;

struct Connection {
  int fd = -1;
  std::string in;
  std::string out;  // what is still to be written
  bool answering = false;
  SteadyTime deadline;
};

const char* StatusText(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    default:
      return "Service Unavailable";
  }
}

std::string Response(const HttpAnswer& answer, bool with_body) {
  std::string out =
      StrCat("HTTP/1.1 ", answer.status, " ", StatusText(answer.status),
             "\r\nContent-Type: ", answer.content_type, "\r\nContent-Length: ", answer.body.size(),
             "\r\nConnection: close\r\n\r\n");
  return with_body ? out + answer.body : out;
}

class Server final : public MetricsHttp {
 public:
  Server(int listener, std::string address, HttpHandler handler)
      : listener_(listener),
        stop_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        address_(std::move(address)),
        handler_(std::move(handler)),
        thread_([this] { Run(); }) {}
  ~Server() override {
    const uint64_t one = 1;
    CHECK(write(stop_fd_, &one, sizeof one) == sizeof one);
    thread_.join();
    for (const Connection& connection : connections_) close(connection.fd);
    close(listener_);
    close(stop_fd_);
  }
  std::string address() const override { return address_; }

 private:
  void Run() {
    while (true) {
      std::vector<pollfd> fds = {{stop_fd_, POLLIN, 0}};
      const bool accepting = connections_.size() < kConnectionsMax;
      fds.push_back({accepting ? listener_ : -1, POLLIN, 0});
      for (const Connection& connection : connections_) {
        fds.push_back(
            {connection.fd, static_cast<short>(connection.answering ? POLLOUT : POLLIN), 0});
      }
      if (poll(fds.data(), fds.size(), connections_.empty() ? -1 : 1000) < 0 && errno != EINTR) {
        return;
      }
      if (fds[0].revents != 0) return;
      size_t i = 2;
      for (auto it = connections_.begin(); it != connections_.end(); ++i) {
        const bool open =
            fds[i].revents == 0 ? std::chrono::steady_clock::now() < it->deadline : Serve(*it);
        if (!open) close(it->fd);
        it = open ? std::next(it) : connections_.erase(it);
      }
      if (fds[1].revents != 0) Accept();
    }
  }

  void Accept() {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {  // no descriptors left, perhaps: it stays readable
      std::this_thread::sleep_for(kAcceptAgain);
      return;
    }
    Connection connection;
    connection.fd = fd;
    connection.deadline = std::chrono::steady_clock::now() + kConnectionTimeMax;
    connections_.push_back(std::move(connection));
  }

  // False: the connection is to be closed.
  bool Serve(Connection& connection) {
    if (!connection.answering && !Read(connection)) return false;
    if (!connection.answering) return true;
    const ssize_t sent =
        send(connection.fd, connection.out.data(), connection.out.size(), MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    connection.out.erase(0, static_cast<size_t>(sent));
    return !connection.out.empty();
  }

  bool Read(Connection& connection) {
    char buffer[2048];
    const ssize_t got = recv(connection.fd, buffer, sizeof buffer, 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    connection.in.append(buffer, static_cast<size_t>(got));
    const bool complete = connection.in.find("\r\n\r\n") != std::string::npos;
    if (!complete && connection.in.size() <= kRequestBytesMax) return true;
    connection.out = complete ? Answer(connection.in)
                              : Response({431, "text/plain", "request too large\n"}, true);
    connection.answering = true;
    return true;
  }

  std::string Answer(const std::string& request) const {
    const std::vector<std::string> words = Split(request.substr(0, request.find("\r\n")), ' ');
    if (words.size() != 3 || words[2].rfind("HTTP/1.", 0) != 0) {
      return Response({400, "text/plain", "not an HTTP/1 request\n"}, true);
    }
    if (words[0] != "GET" && words[0] != "HEAD") {
      return Response({405, "text/plain", "only GET\n"}, true);
    }
    return Response(handler_(words[1].substr(0, words[1].find('?'))), words[0] == "GET");
  }

  const int listener_;
  const int stop_fd_;
  const std::string address_;
  const HttpHandler handler_;
  std::list<Connection> connections_;  // the thread's
  std::thread thread_;
};

std::string BoundAddress(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  char host[64] = "";
  char port[16] = "";
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0 ||
      getnameinfo(reinterpret_cast<sockaddr*>(&bound), size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "";
  }
  return bound.ss_family == AF_INET6 ? StrCat("[", host, "]:", port) : StrCat(host, ":", port);
}

}  // namespace

Result<std::unique_ptr<MetricsHttp>> StartMetricsHttp(const std::string& address,
                                                      HttpHandler handler) {
  const auto refuse = [&](std::string_view why) {
    return InvalidArgument(StrCat("cannot serve metrics on ", address, ": ", why),
                           "metrics.address");
  };
  const size_t colon = address.rfind(':');
  if (!HasValidPort(address)) return refuse("it must be host:port, the port from 0 to 65535");
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (failed != 0) return refuse(gai_strerror(failed));
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int on = 1;
  const bool listening = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                         bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 64) == 0;
  const int error = errno;
  freeaddrinfo(found);
  if (!listening) {
    if (fd >= 0) close(fd);
    return refuse(std::strerror(error));
  }
  return std::unique_ptr<MetricsHttp>(
      std::make_unique<Server>(fd, BoundAddress(fd), std::move(handler)));
}

}  // namespace echelon
