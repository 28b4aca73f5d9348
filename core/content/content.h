// Content-addressed blobs: bytes named by their digest, verified while they stream in.
#pragma once

#include "core/base/fd.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gantry {

class Db;

/// "sha256:<64 hex>" or "sha512:<128 hex>"; throws kInvalidArgument for anything else.
void check_digest(std::string_view digest);
std::string sha256_of(std::string_view bytes); // "sha256:..."

/// Streaming SHA-256. Not thread-safe.
class Hasher {
  public:
    explicit Hasher(std::string_view algorithm = "sha256");
    ~Hasher();
    Hasher(Hasher &&) noexcept;
    void update(const void *data, size_t size);
    std::string digest(); // "sha256:..."; ends the hasher

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// A blob on its way in: root/content/ingest/<digest>.partial. What a killed process wrote stays and is
/// continued: written() is where to go on. Not thread-safe; one ingest per digest at a time (a second
/// opener waits).
class Ingest {
  public:
    virtual ~Ingest() = default;
    virtual uint64_t written() const = 0;
    /// Throws kDataLoss when more than the expected size comes.
    virtual void write(const void *data, size_t size) = 0;
    /// Judges size and digest. On a mismatch throws kDataLoss and the partial is dropped.
    virtual void verify() = 0;
    /// Verifies and makes the blob visible, on disk too where the store is durable.
    virtual void commit() = 0;
    virtual void drop() = 0;
    /// Another reader of the partial file (for unpacking while downloading).
    virtual UniqueFd reader() const = 0;
};

/// Thread-safe. Blobs are plain files root/content/blobs/sha256/<hex>.
class ContentStore {
  public:
    ContentStore(const std::string &root, Db &db, bool durable);
    ~ContentStore();

    bool has(const std::string &digest) const;
    UniqueFd open(const std::string &digest) const; // kNotFound
    std::string read(const std::string &digest, size_t limit) const;
    uint64_t size(const std::string &digest) const;
    /// Stores small content (manifest, config) at once; verifies when `digest` is not "".
    std::string put(std::string_view bytes, const std::string &media_type, const std::string &digest = "");
    std::unique_ptr<Ingest> ingest(const std::string &digest, uint64_t size, const std::string &media_type);
    void remove(const std::string &digest);
    std::vector<std::string> list() const;
    /// What blobs, layers and images the database has until now survives a power cut from here on; nothing
    /// to do unless the store is durable.
    void settle();
    /// Finishes or undoes what a killed process left; drops partials older than a week.
    void recover();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
