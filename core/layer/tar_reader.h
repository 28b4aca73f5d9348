// Tar streams as people and programs make them: v7, ustar, PAX, GNU long names and numbers. For copies,
// where libarchive would cost the command line client its start-up time; layers go through unpack.cpp.
#pragma once

#include "core/layer/tar_writer.h"

#include <map>

namespace gantry {

class TarReader {
  public:
    /// `source` fills a buffer, 0 at the end.
    explicit TarReader(std::function<size_t(void *, size_t)> source);
    /// The next entry, whatever of the one before was not read. False at the end; then everything that the
    /// source had has been read. Throws kInvalidArgument for what is no tar, or is cut short;
    /// kUnsupported for sparse files.
    bool next(TarEntry &entry);
    /// Data of the present entry, 0 at its end.
    size_t read(void *bytes, size_t size);

  private:
    bool read_block(char *block);
    void fill(void *bytes, size_t size);
    std::string text(uint64_t size, const char *what);
    void skip();

    std::function<size_t(void *, size_t)> source_;
    uint64_t left_ = 0, padding_ = 0;
    uint64_t count_ = 0;
};

} // namespace gantry
