#include "common/model/nfc.h"

#include <gtest/gtest.h>

namespace echelon {
namespace {

std::string Nfc(const std::string& text) { return ToNfc({text, ""}).text; }

TEST(Nfc, ComposesAndOrders) {
  EXPECT_EQ(Nfc("plain"), "plain");
  EXPECT_EQ(Nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(Nfc("\u00E9"), "\u00E9");
  EXPECT_EQ(Nfc("\u212B"), "\u00C5");               // a singleton
  EXPECT_EQ(Nfc("a\u0301\u0323"), "\u1EA1\u0301");  // the dot below comes first
  EXPECT_EQ(Nfc("e\u0301\u0301"), "\u00E9\u0301");  // the second is blocked
  EXPECT_EQ(Nfc("\u1112\u1161\u11AB"), "\uD55C");   // Hangul
  EXPECT_EQ(Nfc("\uD55C"), "\uD55C");
  EXPECT_EQ(Nfc("\u0958"), "\u0915\u093C");  // excluded from composition
  EXPECT_EQ(Nfc("\u1100\u1161\u1161"), "\uAC00\u1161");
  EXPECT_EQ(Nfc("a\u0300b\u0300"), "\u00E0b\u0300");
}

TEST(Nfc, KeepsTheMarksOfUntrustedText) {
  const MarkedText out = ToNfc({"e\u0301x", std::string("\0\1\1\0", 4)});
  EXPECT_EQ(out.text, "\u00E9x");
  EXPECT_EQ(out.untrusted, std::string("\1\1\0", 3));
}

}  // namespace
}  // namespace echelon
