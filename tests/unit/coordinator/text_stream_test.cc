#include "coordinator/text_stream.h"

#include <gtest/gtest.h>

#include "tests/support/coordinator_fakes.h"

namespace echelon {
namespace {

using testing::ByteTokenizer;

struct Pushed {
  std::vector<std::string> pieces;
  std::string all;
  bool stopped = false;
};
Pushed Push(const std::string& bytes, std::vector<std::string> stops) {
  static const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, std::move(stops));
  Pushed run;
  for (const char c : bytes) {
    const TextStream::Output out = stream.Push(static_cast<unsigned char>(c));
    run.pieces.push_back(out.text);
    run.all += out.text;
    run.stopped |= out.stopped;
  }
  const TextStream::Output rest = stream.Flush();
  run.pieces.push_back(rest.text);
  run.all += rest.text;
  run.stopped |= rest.stopped;
  return run;
}

TEST(TextStream, WithoutStopStringsNothingIsHeldBack) {
  EXPECT_EQ(Push("abc", {}).pieces, (std::vector<std::string>{"a", "b", "c", ""}));
}

TEST(TextStream, StopStringAcrossTokensCutsBeforeIt) {
  const Pushed run = Push("abSTOPcd", {"STOP"});
  EXPECT_TRUE(run.stopped);
  EXPECT_EQ(run.all, "ab");
  EXPECT_EQ(run.pieces[2], "");  // S is held back
}

TEST(TextStream, BeginningOfAStopStringIsReleasedWhenItTurnsOutOtherwise) {
  const Pushed run = Push("aSTxSTO", {"STOP"});
  EXPECT_FALSE(run.stopped);
  EXPECT_EQ(run.all, "aSTxSTO");
  EXPECT_EQ(run.pieces[3], "STx");
  EXPECT_EQ(run.pieces.back(), "STO");
}

TEST(TextStream, OverlappingBeginnings) {
  EXPECT_EQ(Push("aab", {"ab"}).all, "a");
  EXPECT_EQ(Push("ababac", {"abac"}).all, "ab");
}

TEST(TextStream, TheEarliestOfSeveralStopStringsWins) {
  EXPECT_EQ(Push("xyabc", {"abc", "b"}).all, "xya");
  EXPECT_EQ(Push("xyabc", {"c", "abc"}).all, "xy");  // both complete with the c: the earlier begin
}

TEST(TextStream, HalfCharactersAreHeldBack) {
  const Pushed run = Push("\xE2\x82\xAC!", {});
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"", "", "\xE2\x82\xAC", "!", ""}));
}

TEST(TextStream, AnUnfinishedCharacterAtTheEndIsReplaced) {
  EXPECT_EQ(Push("a\xE2\x82", {}).all, "a\xEF\xBF\xBD");
}

TEST(TextStream, StopStringOfSeveralByteCharacters) {
  EXPECT_EQ(Push("a\xC3\xA9"
                 "b\xC3\xA9"
                 "c",
                 {"\xC3\xA9"
                  "c"})
                .all,
            "a\xC3\xA9"
            "b");
}

}  // namespace
}  // namespace echelon
