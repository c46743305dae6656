#pragma once
// The memory of the emulated devices, which only kernels and copies can touch: while none runs, it
// is out of the host's reach. Each allocation ends at a page that nobody can touch, with at most
// what fills its size up to 256 bytes between, and begins not far behind one; an address is not
// given out again soon. So an access beside an allocation, or after it was freed, ends the program,
// with a line that says where; only what is written into the few bytes up to those pages is found
// later, when the allocation is freed. New memory is unwritten (unwritten.h).
//
// Any thread.

#include <sys/types.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

namespace echelon::emulation {

class Arena {
 public:
  Arena();

  void* Take(size_t bytes);  // null where too little is free
  void Give(void* memory);
  size_t FreeBytes() const;

  // What stands for memory that Take gave, in other processes of this user while this one lives;
  // and what another one's stands for here, null where that is gone. Kept until both let it go.
  struct Handle {
    pid_t process = 0;
    int file = -1;
    ino_t inode = 0;  // of the file: another one may have come to its number
    size_t offset = 0, pages = 0, data = 0, bytes = 0;
  };
  Handle Share(void* memory) const;
  void* Map(const Handle& handle);
  void Unmap(void* memory);

  // Memory can be touched until as many Close() as Open() were called.
  void Open();
  void Close();

  // What is wrong with an access there; "" where it has nothing to do with this memory. For signal
  // handlers, of a program that ends: takes no lock.
  std::string Explain(const void* address) const;

 private:
  struct Block {
    size_t bytes;  // as asked for
    size_t pages;  // in bytes, all of which can be touched
    size_t data;   // the offset of what was given out
  };
  using Blocks = std::map<size_t, Block>;  // by their first page's offset
  static size_t Rounded(size_t bytes);
  // The offset of that many bytes of free addresses.
  size_t Place(size_t bytes);
  // A new block at `offset`, of what `file` has at `from`; where it can be touched.
  char* Add(size_t offset, const Block& block, int file, size_t from);
  void Remove(Blocks::const_iterator block);
  Blocks::const_iterator Find(void* memory) const;
  void Protect(int protection);

  mutable std::mutex mutex_;
  char* base_ = nullptr;
  int file_ = -1, none_ = -1;  // the memory; a file of no bytes
  Blocks blocks_;
  size_t taken_ = 0;  // bytes, as the device counts them
  size_t next_ = 0;   // where addresses are looked for
  size_t end_ = 0;    // nothing has ever been mapped behind
  int open_ = 0;
};
Arena& TheArena();

// Device memory is there while one of these lives.
class OpenMemory {
 public:
  OpenMemory() { TheArena().Open(); }
  ~OpenMemory() { TheArena().Close(); }
  OpenMemory(const OpenMemory&) = delete;
  OpenMemory& operator=(const OpenMemory&) = delete;
};

void CopyDevice(void* to, const void* from, size_t bytes);
void ClearDevice(void* memory, size_t bytes);

}  // namespace echelon::emulation
