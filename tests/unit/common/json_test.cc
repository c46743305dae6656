#include "common/json.h"

#include <gtest/gtest.h>

#include <limits>

namespace echelon {
namespace {

std::string FailureOf(std::string_view text, JsonLimits limits = {}) {
  const Result<Json> parsed = Json::Parse(text, "file.json", limits);
  return parsed.ok() ? "" : parsed.error().message;
}

TEST(Json, KeepsOrderAndKinds) {
  const char* text = R"({"b":1,"a":[true,null,-2,1.5,"x\n\u00e9"],"c":18446744073709551615})";
  const Json json = *Json::Parse(text, "t");
  EXPECT_EQ(json.Dump(),
            "{\"b\":1,\"a\":[true,null,-2,1.5,\"x\\n\xC3\xA9\"],\"c\":18446744073709551615}");
  EXPECT_TRUE(json.Find("b")->is_int());
  EXPECT_FALSE(json.Find("c")->is_int());
  EXPECT_EQ(json.Find("missing"), nullptr);
}

TEST(Json, RefusesWhatItPromisesToRefuse) {
  EXPECT_NE(FailureOf("{\"a\":1,\"a\":2}").find("duplicate key \"a\""), std::string::npos);
  EXPECT_NE(FailureOf(std::string(100, '[') + std::string(100, ']')).find("nested deeper"),
            std::string::npos);
  EXPECT_NE(FailureOf("1e400"), "");
  EXPECT_NE(FailureOf("{} x"), "");
  EXPECT_NE(FailureOf("\"\xff\""), "");
  EXPECT_NE(FailureOf("\"\\ud800\""), "");
  EXPECT_NE(FailureOf(""), "");
  EXPECT_NE(FailureOf("[1,2,3]", {.bytes_max = 4}).find("the limit is 4"), std::string::npos);
  EXPECT_EQ(FailureOf("[1,2,3]").find("file.json"), std::string::npos);
}

TEST(Json, NumbersReadBackTheSame) {
  for (const double value : {0.1, 1e-300, -3.25, 1.0 / 3.0, 1e22}) {
    EXPECT_EQ(Json::Parse(Json(value).Dump(), "t")->as_double(), value);
  }
  EXPECT_EQ(Json(std::numeric_limits<double>::infinity()).Dump(), "null");
}

TEST(Json, SetReplaces) {
  Json json = Json::MakeObject();
  json.Set("a", 1);
  json.Set("a", 2);
  EXPECT_EQ(json.Dump(), "{\"a\":2}");
}

}  // namespace
}  // namespace echelon
