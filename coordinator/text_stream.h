#pragma once
// TextStream: generated token ids to the text a client sees. Holds back half UTF-8 characters (the
// Detokenizer does) and text that may yet turn out to be the beginning of a stop string, across any
// token boundaries. One per sequence; the coordinator's thread.

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/tokenizer.h"

namespace echelon {

class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop_strings)
      : detokenizer_(tokenizer), stop_strings_(std::move(stop_strings)) {}

  struct Output {
    std::string text;      // became certain with this token
    bool stopped = false;  // a stop string is complete: `text` ends before it
  };
  Output Push(int32_t token);
  // The rest at the end of a sequence that no stop string ended. A stop string completed only by
  // the rest itself (an unfinished character shown as U+FFFD) still cuts it.
  Output Flush();

 private:
  Output Release(std::string fresh);

  Detokenizer detokenizer_;
  std::vector<std::string> stop_strings_;
  std::string held_;  // may be the beginning of a stop string
  bool stopped_ = false;
};

}  // namespace echelon
