#pragma once
// Rotary position embedding: the inverse frequency of every pair of a head. A pure function of the
// layer's numbers, the same on every rank; callable from any thread.

#include <vector>

#include "common/model_config.h"

namespace echelon {

// head_dim / 2 values in radians per position: pair i of position p turns by p * result[i].
// Unscaled theta^(-2i / head_dim); scaling as the layer says (linear: all divided by the factor;
// llama3: wavelengths beyond the trained context divided, a smooth passage between; factors: each
// divided by its own). head_dim must be even and positive; `factors` as long as the result.
std::vector<double> RopeInverseFrequencies(const LayerConfig& layer, int head_dim);

}  // namespace echelon
