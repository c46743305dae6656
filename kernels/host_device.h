#pragma once
// ECHELON_HD marks functions that the CUDA compiler builds for both sides; to a host compiler it is
// nothing.

#ifdef __CUDACC__
#define ECHELON_HD __host__ __device__
#else
#define ECHELON_HD
#endif
