// A tar stream in the format that every reader of images understands: ustar headers, with PAX records
// only where ustar falls short (long or non-ASCII names, nanoseconds, extended attributes, large
// numbers). Owners are numbers alone: names would say who has accounts on this host. The same entries
// give the same bytes. Has no dependencies, because the command line client writes tars too.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace gantry {

/// Takes bytes; throws to end the writing.
using ByteSink = std::function<void(const void *, size_t)>;

struct TarEntry {
    std::string name;       // "etc/passwd"; directories get their "/" from the writer
    std::string link;       // target of a symlink, or name of an entry before for a hard link
    bool hard_link = false; // then nothing but name and link counts
    mode_t mode = 0;        // with the type
    uid_t uid = 0;
    gid_t gid = 0;
    uint64_t size = 0; // regular files
    timespec mtime{};
    dev_t rdev = 0;
    std::vector<std::pair<std::string, std::string>> xattrs;
};

class TarWriter {
  public:
    explicit TarWriter(ByteSink sink);
    /// The header; `size` bytes of data must follow for a regular file.
    void begin(const TarEntry &entry);
    /// Throws kInternal beyond the announced size.
    void data(const void *bytes, size_t size);
    /// Reads the announced size from a file; what it lost meanwhile is filled with zeros, what it won is
    /// left out. Returns the missing bytes.
    uint64_t data_from(int fd, const std::string &shown);
    /// Ends the archive and empties the buffer.
    void finish();

  private:
    void header(const TarEntry &entry, char type, const std::string &name, const std::string &link,
                uint64_t size);
    void put(const void *bytes, size_t size);
    void pad();
    void flush();

    ByteSink sink_;
    std::vector<char> buffer_;
    size_t used_ = 0;
    uint64_t left_ = 0;   // of the present entry's data
    uint64_t offset_ = 0; // bytes of data since the last block boundary
};

} // namespace gantry
