#include "client/cpp/event_queue.h"

#include <gtest/gtest.h>

namespace echelon {
namespace {

StreamEvent Event(const std::string& id, int64_t seq) {
  return {id, TokensEvent{.seq = seq, .token_ids = {}, .text = "", .logprobs = {}}};
}
std::string Name(const std::optional<StreamEvent>& event) {
  if (!event) return "none";
  return event->id + std::to_string(std::get<TokensEvent>(event->body).seq);
}

TEST(EventQueue, GivesEachStreamItsOwnAndAnyoneTheOldest) {
  EventQueue queue;
  queue.Push(Event("a", 0));
  queue.Push(Event("b", 0));
  queue.Push(Event("a", 1));
  queue.Push(Event("c", 0));
  queue.Push(Event("b", 1));
  EXPECT_EQ(Name(queue.Take("b")), "b0");
  EXPECT_EQ(Name(queue.Take("")), "a0");
  EXPECT_EQ(Name(queue.Take("")), "a1");
  EXPECT_EQ(Name(queue.Take("a")), "none");
  queue.Drop("c");
  queue.Drop("never seen");
  EXPECT_EQ(Name(queue.Take("")), "b1");
  EXPECT_EQ(Name(queue.Take("")), "none");
}

TEST(EventQueue, WhatBelongsToNoStreamIsEverybodys) {
  EventQueue queue;
  queue.Push(Event("a", 0));
  queue.Push(Event("", 7));
  EXPECT_EQ(Name(queue.Take("a")), "7");
  EXPECT_EQ(Name(queue.Take("b")), "none");
  EXPECT_EQ(Name(queue.Take("a")), "a0");
}

}  // namespace
}  // namespace echelon
