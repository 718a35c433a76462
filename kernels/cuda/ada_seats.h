// Which share of a plan a thread block of ADA's reading kernel reads: that of the multiprocessor it runs on. Host and device.
//
// Neighbours in a plan read the same tier, and multiprocessors whose numbers are near each other share ways to memory: without this, blocks
// of T8 filled three of an H200's eight groups of multiprocessors, and waited for these groups' memory while others had it to spare.
#ifndef SPHERICAL_KERNELS_CUDA_ADA_SEATS_H_
#define SPHERICAL_KERNELS_CUDA_ADA_SEATS_H_

#include <cstdint>

#include "kernels/cuda/host_device.h"

namespace spherical::kernels::cuda {

inline constexpr int32_t kAdaSeats = 160;  // of a device with more multiprocessors each has the seat of its number
struct AdaSeats {
  uint8_t of[kAdaSeats];  // by multiprocessor
};

// Multiprocessors are numbered in twos that share a way, these going round the eight greater groups of the device (seen on H100 and H200;
// elsewhere it is an order like any other). Seats go over every third turn of that first: a group's own groups are three turns, too.
constexpr AdaSeats AdaSeatsOf(int32_t processors) {
  AdaSeats seats = {};
  int32_t seat = 0;
  for (int32_t third = 0; third < 3; ++third) {
    for (int32_t i = 0; i < processors && i < kAdaSeats; ++i) {
      if (i / 2 / 8 % 3 == third) seats.of[i] = static_cast<uint8_t>(seat++);
    }
  }
  return seats;
}

// Words of seats that are taken, a bit each.
constexpr int32_t AdaSeatWords(int32_t seats) { return (seats + 31) / 32; }

// For one of as many blocks as there are seats: the one it wants if that is free, or else any; -1 if all are taken.
//     take(word, bits): sets bits of a word, at once, and returns what it was before      look(word): what it is, perhaps a moment ago
template <class Take, class Look>
SPH_HOST_DEVICE inline int32_t TakeAdaSeat(int32_t wanted, int32_t seats, const Take& take, const Look& look) {
  const int32_t words = AdaSeatWords(seats);
  int32_t word = wanted / 32;
  uint32_t bit = uint32_t{1} << wanted % 32;
  for (;;) {
    const uint32_t before = take(word, bit);
    if ((before & bit) == 0) {
      int32_t seat = 32 * word;
      while ((bit >>= 1) != 0) ++seat;
      return seat;
    }
    uint32_t taken = before;
    for (int32_t turn = 0; turn <= words; ++turn) {  // over all words, and this one again: as it is now
      const uint32_t seats_of_word = 32 * (word + 1) <= seats ? ~uint32_t{0} : (uint32_t{1} << seats % 32) - 1;
      const uint32_t free = seats_of_word & ~taken;
      bit = free & (~free + 1);
      if (bit != 0) break;
      word = word + 1 == words ? 0 : word + 1;
      taken = look(word);
    }
    if (bit == 0) return -1;
  }
}

}  // namespace spherical::kernels::cuda

#endif  // SPHERICAL_KERNELS_CUDA_ADA_SEATS_H_
