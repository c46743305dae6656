#include "coordinator/metrics_http.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "common/strings.h"

namespace echelon {
namespace {

class MetricsHttpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = StartMetricsHttp("127.0.0.1:0", [](const std::string& path) {
      return path == "/big"    ? HttpAnswer{200, "text/plain", std::string(4 << 20, 'x')}
             : path == "/gone" ? HttpAnswer{503, "text/plain", "why\n"}
                               : HttpAnswer{200, "text/plain", path};
    });
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
  }
  int Connect() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port =
        htons(static_cast<uint16_t>(std::atoi(Split(server_->address(), ':')[1].c_str())));
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    return fd;
  }
  std::string ReadAll(int fd) {
    std::string all;
    char buffer[65536];
    for (ssize_t n = 0; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;) {
      all.append(buffer, static_cast<size_t>(n));
    }
    close(fd);
    return all;
  }
  std::string Ask(const std::string& request) {
    const int fd = Connect();
    EXPECT_GE(send(fd, request.data(), request.size(), MSG_NOSIGNAL), 0);
    return ReadAll(fd);
  }
  std::unique_ptr<MetricsHttp> server_;
};

TEST_F(MetricsHttpTest, AnswersGetWithLengthAndBody) {
  const std::string answer = Ask("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(answer.rfind("HTTP/1.1 200 OK\r\n", 0), 0u);
  EXPECT_NE(answer.find("Content-Length: 8\r\n"), std::string::npos);
  EXPECT_EQ(answer.substr(answer.size() - 8), "/metrics");
}

TEST_F(MetricsHttpTest, HeadHasNoBodyAndStatusIsPassedOn) {
  const std::string answer = Ask("HEAD /gone HTTP/1.1\r\n\r\n");
  EXPECT_EQ(answer.rfind("HTTP/1.1 503", 0), 0u);
  EXPECT_EQ(answer.substr(answer.size() - 4), "\r\n\r\n");
}

TEST_F(MetricsHttpTest, OtherMethodsAndNonsense) {
  EXPECT_EQ(Ask("POST /metrics HTTP/1.1\r\n\r\n").rfind("HTTP/1.1 405", 0), 0u);
  EXPECT_EQ(Ask("hello\r\n\r\n").rfind("HTTP/1.1 400", 0), 0u);
  EXPECT_EQ(Ask(std::string(1, '\0') + "\r\n\r\n").rfind("HTTP/1.1 400", 0), 0u);
  EXPECT_EQ(Ask("GET / HTTP/2.0\r\n\r\n").rfind("HTTP/1.1 400", 0), 0u);
}

TEST_F(MetricsHttpTest, TheRequestIsBounded) {
  const std::string answer = Ask("GET / HTTP/1.1\r\nX: " + std::string(9000, 'a'));
  EXPECT_TRUE(answer.empty() || answer.rfind("HTTP/1.1 431", 0) == 0) << answer.substr(0, 40);
}

TEST_F(MetricsHttpTest, ALargeAnswerArrivesWhole) {
  const std::string answer = Ask("GET /big HTTP/1.1\r\n\r\n");
  EXPECT_GT(answer.size(), size_t{4} << 20);
}

TEST_F(MetricsHttpTest, SilentConnectionsDoNotKeepOthersOut) {
  std::vector<int> silent;
  for (int i = 0; i < 40; ++i) silent.push_back(Connect());
  EXPECT_EQ(Ask("GET /x HTTP/1.1\r\n\r\n").rfind("HTTP/1.1 200", 0), 0u);
  for (const int fd : silent) close(fd);
}

TEST_F(MetricsHttpTest, ConcurrentClients) {
  std::vector<std::thread> threads;
  std::vector<std::string> answers(16);
  for (size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back([&, i] { answers[i] = Ask("GET /y HTTP/1.1\r\n\r\n"); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& answer : answers) EXPECT_EQ(answer.rfind("HTTP/1.1 200", 0), 0u);
}

TEST(MetricsHttp, AddressesThatCannotBeBound) {
  const auto handler = [](const std::string&) { return HttpAnswer(); };
  for (const char* bad : {"", "nonsense", "127.0.0.1:99999999", "1.2.3.4:1", "127.0.0.1:x"}) {
    const auto server = StartMetricsHttp(bad, handler);
    ASSERT_FALSE(server.ok()) << bad;
    EXPECT_EQ(server.error().field, "metrics.address");
  }
}

}  // namespace
}  // namespace echelon
