#pragma once
// EventQueue: events that were received and not yet taken, of all streams of a client. Taking one,
// of a given stream or of any, costs the same however many wait. One thread.

#include <deque>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>

#include "client/cpp/events.h"

namespace echelon {

class EventQueue {
 public:
  void Push(StreamEvent event);
  // The oldest event of stream `id`, or of any where that is empty. An event that belongs to no
  // stream (an error without an id) is everybody's, and goes first.
  std::optional<StreamEvent> Take(const std::string& id);
  // Forgets the events of a stream.
  void Drop(const std::string& id);

 private:
  using List = std::list<StreamEvent>;
  List events_;  // in their order of arrival
  std::unordered_map<std::string, std::deque<List::iterator>> of_stream_;  // none of them empty
};

}  // namespace echelon
