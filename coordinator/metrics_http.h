#pragma once
// MetricsHttp: answers GET requests on a thread of its own, so that the service can be watched
// while its state machine is busy. HTTP/1.1, one request a connection, everything bounded:
// connections, request bytes, time. Not for clients of the model.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/result.h"

namespace echelon {

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};
// Called in the server's thread with the path ("/metrics"), without the query.
using HttpHandler = std::function<HttpAnswer(const std::string& path)>;

class MetricsHttp {
 public:
  virtual ~MetricsHttp() = default;         // ends the thread
  virtual std::string address() const = 0;  // "127.0.0.1:9760", the real port
};

// `address`: "host:port", host an IPv4 or bracketed IPv6 address, port 0 = any free one.
Result<std::unique_ptr<MetricsHttp>> StartMetricsHttp(const std::string& address,
                                                      HttpHandler handler);

}  // namespace echelon
