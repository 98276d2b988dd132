// Row lists: which rows of every slot are active, packed, and where a row stands in such a list.
#pragma once

#include <cstdint>

namespace dlmcache {

struct BuildRowsParams {
  int64_t num_slots;     // S
  int64_t capacity;      // positions per slot
  int64_t max_rows;      // R: entries of row_index
  const int64_t* begin;  // [S] first position that may be listed
  const int64_t* end;    // [S] the position behind the last one
  const int64_t* limit;  // [S] at most so many rows, the leftmost; or nullptr: all
  const bool* flags;     // [S * capacity] the positions to list, or nullptr: all between begin and end
  int64_t* counts;       // [S] rows of each slot: count_rows writes it, build_rows reads it
  int64_t* row_index;    // [R], ascending, -1 behind the last row
  int64_t* cu_rows;      // [S + 1]
};

struct FindRowsParams {
  int64_t num_queries;       // Q
  int64_t capacity;          // positions per slot
  const int64_t* row_index;  // [R], ascending
  const int64_t* cu_rows;    // [S + 1]
  const int64_t* query;      // [Q] rows to look for, -1 for none
  int64_t* place;            // [Q] entry of row_index that holds the row, or -1
};

namespace cpu {
// Slots begin to end: how many rows each one lists.
void count_rows(const BuildRowsParams& p, int64_t begin, int64_t end);
// Slots begin to end: their part of row_index, at cu_rows (which is complete by then).
void build_rows(const BuildRowsParams& p, int64_t begin, int64_t end);
// Queries begin to end.
void find_rows(const FindRowsParams& p, int64_t begin, int64_t end);
}  // namespace cpu

namespace cuda {
// Counts, prefix and list. What does not fit into max_rows is left out, and cu_rows says so. nullptr, or what failed.
const char* launch_build_rows(const BuildRowsParams& p, void* stream);
const char* launch_find_rows(const FindRowsParams& p, void* stream);
}  // namespace cuda

}  // namespace dlmcache
