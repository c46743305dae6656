#pragma once
// A conversation as the API's `messages`. Plain value.

#include <string>

#include "common/json.h"

namespace echelon {

class Conversation {
 public:
  // `system`: the first message, where not empty.
  explicit Conversation(const std::string& system) {
    if (!system.empty()) Add("system", system);
  }
  void Add(const char* role, const std::string& content) {
    Json message = Json::MakeObject();
    message.Set("role", role);
    message.Set("content", content);
    messages_.Append(std::move(message));
  }
  void RemoveLast() { messages_.as_array().pop_back(); }
  const Json& messages() const { return messages_; }

 private:
  Json messages_ = Json::MakeArray();
};

}  // namespace echelon
