#pragma once
// FloatRepr: a double as Python prints it, so that a chat template renders numbers as Jinja does.
// Pure functions.

#include <string>

namespace echelon::chat {

// repr(value): the shortest digits that read back, "1e+16" and "1e-05" beyond 16 digits before or 4
// zeros after the point, ".0" where it would look integral; "inf", "nan".
std::string FloatRepr(double value);
// json.dumps(value): the same, but "Infinity" and "NaN".
std::string FloatJson(double value);

}  // namespace echelon::chat
