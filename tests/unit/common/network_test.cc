#include "common/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace echelon {
namespace {

using ::testing::HasSubstr;

TEST(Network, NamesTheLoopbackInterface) {
  EXPECT_EQ(InterfaceTowards("127.0.0.1"), "127.0.0.1 (lo)");
  EXPECT_EQ(InterfaceTowards("no.such.host.invalid"), "");
}

TEST(Network, FindsAnAddressByNameOrNetwork) {
  EXPECT_EQ(*AddressOn("lo"), "127.0.0.1");
  EXPECT_EQ(*AddressOn("127.0.0.0/8"), "127.0.0.1");
  EXPECT_EQ(*InterfaceOn("lo"), "lo");
  EXPECT_EQ(*InterfaceOn("127.0.0.0/8"), "lo");
  for (const char* bad : {"eth77", "203.0.113.0/24", "127.0.0.0/33", "127.0.0.0/", "/8", ""}) {
    const auto address = AddressOn(bad);
    ASSERT_FALSE(address.ok()) << bad;
    EXPECT_THAT(address.error().message, HasSubstr("lo 127.0.0.1"));
    EXPECT_FALSE(InterfaceOn(bad).ok()) << bad;
  }
}

TEST(Network, TakesEndpointsApart) {
  const auto endpoint = ParseEndpoint("tcp://10.0.0.1:5760");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_EQ(endpoint->host, "10.0.0.1");
  EXPECT_EQ(endpoint->port, 5760);
  for (const char* bad :
       {"", "tcp://", "tcp://x", "tcp://:1", "x:1", "tcp://x:70000", "tcp://x:1a"}) {
    EXPECT_FALSE(ParseEndpoint(bad).ok()) << bad;
  }
}

TEST(Network, KnowsThisHost) {
  EXPECT_TRUE(IsThisHost("localhost"));
  EXPECT_TRUE(IsThisHost("127.0.1.1"));
  EXPECT_TRUE(IsThisHost(HostName()));
  EXPECT_FALSE(IsThisHost("203.0.113.7"));
}

}  // namespace
}  // namespace echelon
