#include "common/model/float_repr.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace echelon::chat {
namespace {

// The bits of a double and python3's repr of it: chosen edges, random bits, random magnitudes.
constexpr struct {
  uint64_t bits;
  const char* text;
} kRows[] = {
    {0x400921fb54442d11, "3.14159265358979"},
    {0x3fb999999999999a, "0.1"},
    {0x3fd5555555555555, "0.3333333333333333"},
    {0x3fe5555555555555, "0.6666666666666666"},
    {0x4059000000000000, "100.0"},
    {0x430c6bf526340000, "1000000000000000.0"},
    {0x4341c37937e08000, "1e+16"},
    {0x4341c37937e07fff, "9999999999999998.0"},
    {0x423cbe991a140000, "123456789012.0"},
    {0x3f1a36e2eb1c432d, "0.0001"},
    {0x3ee4f8b588e368f1, "1e-05"},
    {0x3f202e85be180b74, "0.00012345678901234567"},
    {0x3e8421f5f40d8376, "1.5e-07"},
    {0x0000000000000001, "5e-324"},
    {0x0010000000000000, "2.2250738585072014e-308"},
    {0x7fefffffffffffff, "1.7976931348623157e+308"},
    {0x0000000000000000, "0.0"},
    {0x8000000000000000, "-0.0"},
    {0xc004000000000000, "-2.5"},
    {0x4480f0cf064dd592, "1e+22"},
    {0x44b52d02c7e14af6, "1e+23"},
    {0x419d6f34547e6b75, "123456789.12345679"},
    {0x7ff0000000000000, "inf"},
    {0xfff0000000000000, "-inf"},
    {0x3fd3333333333334, "0.30000000000000004"},
    {0x54b249ad2594c37d, "1e+100"},
    {0x4345ee2a2eb5a5c4, "1.2345678901234568e+16"},
    {0x3fe0000000000000, "0.5"},
    {0x401c000000000000, "7.0"},
    {0xbee4f8b588e368f1, "-1e-05"},
    {0x4da4f9fc3c6da5d7, "1.1045419098831014e+66"},
    {0xb8a1abcd1a6916c7, "-6.647128420400007e-36"},
    {0x7a97c643656412a9, "3.4524446051673457e+282"},
    {0x1710cf5327ac435a, "1.4054875942029408e-197"},
    {0x0512bd1311072231, "3.150362997740591e-284"},
    {0x8ca5996666ceab36, "-9.653651588683685e-248"},
    {0x4a14876aeaff1a09, "7.50078271268796e+48"},
    {0xfd724452ccea71ff, "-1.866638964102222e+296"},
    {0x0f1099c6c3e1b258, "4.078960746537913e-236"},
    {0x8534f45738d048ec, "-1.4091605671420456e-283"},
    {0x5c3902b38963dc6e, "1.8178637718570305e+136"},
    {0xc79d679346d4ac7a, "-9.771351395048523e+36"},
    {0xc123fa9de2030429, "-654670.9414292622"},
    {0xc1280962d48cd437, "-787633.4151369397"},
    {0xc1216e7e450a0853, "-571199.134842167"},
    {0x412a174e869513d6, "854951.262856121"},
    {0x4124136031f2f850, "657840.0975568388"},
    {0x4122b7716305ef12, "613304.6934046468"},
};

TEST(FloatRepr, IsPythons) {
  for (const auto& [bits, text] : kRows) {
    EXPECT_EQ(FloatRepr(std::bit_cast<double>(bits)), text);
  }
  EXPECT_EQ(FloatRepr(std::nan("")), "nan");
}

TEST(FloatRepr, JsonDiffersInWhatIsNotFinite) {
  EXPECT_EQ(FloatJson(0.25), "0.25");
  EXPECT_EQ(FloatJson(INFINITY), "Infinity");
  EXPECT_EQ(FloatJson(-INFINITY), "-Infinity");
  EXPECT_EQ(FloatJson(std::nan("")), "NaN");
}

}  // namespace
}  // namespace echelon::chat
