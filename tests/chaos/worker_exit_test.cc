// How the program echelon-worker ends, seen from outside: the status says why, and is 0 only after
// an orderly end.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "common/control.h"
#include "tests/chaos/group_driver.h"

namespace echelon {
namespace {

class WorkerExitTest : public ::testing::Test {
 protected:
  WorkerExitTest() : socket_(context_, zmq::socket_type::router) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.bind("tcp://127.0.0.1:*");
    endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
  }
  // The status of a worker that runs alone (rank 0 of 1).
  int RunWorker(const std::vector<std::string>& flags) {
    const std::string program = testing::WorkerProgram();
    const pid_t child = fork();
    if (child == 0) {
      std::vector<const char*> words = {program.c_str()};
      for (const std::string& flag : flags) words.push_back(flag.c_str());
      words.push_back(nullptr);
      execv(words[0], const_cast<char* const*>(words.data()));
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // Answers the first JOIN with these frames, then is silent.
  std::thread Answer(std::vector<std::pair<ControlType, std::string>> answers) {
    return std::thread([this, answers = std::move(answers)] {
      zmq::message_t peer, head, body;
      socket_.set(zmq::sockopt::rcvtimeo, 10'000);
      if (!socket_.recv(peer) || !socket_.recv(head) || !socket_.recv(body)) return;
      for (const auto& [type, answer] : answers) {
        socket_.send(zmq::buffer(peer.data(), peer.size()), zmq::send_flags::sndmore);
        const std::string header = EncodeHeader({type, 1, 0});
        socket_.send(zmq::buffer(header), zmq::send_flags::sndmore);
        socket_.send(zmq::buffer(answer), zmq::send_flags::none);
      }
    });
  }

  zmq::context_t context_;
  zmq::socket_t socket_;
  std::string endpoint_;
};

TEST_F(WorkerExitTest, UsageIsTwo) {
  EXPECT_EQ(RunWorker({}), 2);
  EXPECT_EQ(RunWorker({"--coordinator", endpoint_, "--no-such-flag"}), 2);
  EXPECT_EQ(RunWorker({"--coordinator", "127.0.0.1:1"}), 2);
  EXPECT_EQ(RunWorker({"--version"}), 0);
}

TEST_F(WorkerExitTest, NobodyAnsweringIs75) {
  EXPECT_EQ(RunWorker({"--coordinator", "tcp://127.0.0.1:9", "--join-timeout-ms", "300"}), 75);
}

TEST_F(WorkerExitTest, ARefusalIs78) {
  std::thread played = Answer({{ControlType::kRefuse, Encode(RefuseMessage{"other build"})}});
  EXPECT_EQ(RunWorker({"--coordinator", endpoint_, "--epoch", "1"}), 78);
  played.join();
}

TEST_F(WorkerExitTest, AModelThatIsNotThereIs70) {
  std::thread played =
      Answer({{ControlType::kWelcome, Encode(WelcomeMessage{"model: {path: /no/such.gguf}\n"})}});
  EXPECT_EQ(RunWorker({"--coordinator", endpoint_, "--epoch", "1"}), 70);
  played.join();
}

TEST_F(WorkerExitTest, AConfigurationOfAnotherVersionIs70) {
  std::thread played = Answer({{ControlType::kWelcome, Encode(WelcomeMessage{"modle: {}\n"})}});
  EXPECT_EQ(RunWorker({"--coordinator", endpoint_, "--epoch", "1"}), 70);
  played.join();
}

}  // namespace
}  // namespace echelon
