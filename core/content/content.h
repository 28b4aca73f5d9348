// Content-addressed blobs: bytes named by their digest, verified while they stream in.
#pragma once

#include "core/base/fd.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gantry {

class Db;

/// "sha256:<64 hex>" or "sha512:<128 hex>"; throws kInvalidArgument for anything else.
void check_digest(std::string_view digest);
std::string sha256_of(std::string_view bytes); // "sha256:..."

/// Streaming SHA-256 or SHA-512. Not thread-safe.
class Hasher {
  public:
    explicit Hasher(std::string_view algorithm = "sha256");
    ~Hasher();
    Hasher(Hasher &&) noexcept;
    Hasher &operator=(Hasher &&) noexcept;
    void update(const void *data, size_t size);
    std::string digest() const; // "sha256:..."; of the bytes so far
    /// What restore() goes on from, on a machine like this one.
    std::string state() const;
    /// False, and nothing done, unless `state` is one of this algorithm after `bytes` bytes.
    bool restore(std::string_view state, uint64_t bytes);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Bytes [begin, end) of a blob.
struct BlobRange {
    uint64_t begin = 0, end = 0;
    bool operator==(const BlobRange &) const = default;
};

/// A blob on its way in: root/content/ingest/<digest>.partial, with a journal beside it of what is there, so
/// that what a killed process or a power cut left is continued. Parts may come in any order and from several
/// threads. One ingest per digest at a time (a second opener waits).
class Ingest {
  public:
    /// "" is somebody who gave no name.
    struct Source {
        std::string endpoint;
        uint64_t bytes = 0;
    };
    virtual ~Ingest() = default; // what is there stays, for the next one, unless dropped
    virtual uint64_t size() const = 0;
    /// Bytes that are there from the first on without a hole: where to go on, and what may be read.
    virtual uint64_t written() const = 0;
    virtual uint64_t present() const = 0; // holes do not count
    virtual std::vector<BlobRange> missing() const = 0;
    /// Appends at written(); as write_at().
    virtual void write(const void *data, size_t size) = 0;
    /// [any thread] Bytes that are there already are passed over. Throws kDataLoss beyond the expected size.
    virtual void write_at(uint64_t at, const void *data, size_t size, const std::string &endpoint) = 0;
    /// Who gave what is there now, over all attempts; of several that are put together: "".
    virtual std::vector<Source> sources() const = 0;
    /// All is there: has it the digest? Not while others write.
    virtual bool matches() = 0;
    /// Forgets what `endpoint` gave, so that it is missing; matches() is judged anew. Returns the bytes.
    virtual uint64_t doubt(const std::string &endpoint) = 0;
    /// Whether bytes came since the last doubt() that are other than those forgotten then.
    virtual bool differed() const = 0;
    /// Judges size and digest. On a mismatch throws kDataLoss and the partial is dropped.
    virtual void verify() = 0;
    /// Verifies and makes the blob visible, on disk too where the store is durable and it is to be kept.
    virtual void commit(bool keep = true) = 0;
    virtual void drop() = 0;
    /// Another reader of the partial file (for unpacking while downloading).
    virtual UniqueFd reader() const = 0;
};

/// What is kept of interrupted downloads.
struct PartialLimits {
    int64_t ttl_ns = 7 * 86400ll * 1'000'000'000; // since the last byte
    uint64_t budget = 10ull << 30;                // bytes on the disk, together
};

struct PartialBlob {
    std::string digest;
    uint64_t present = 0, size = 0; // bytes there and bytes of the blob
    uint64_t disk = 0;              // bytes it takes
    int64_t changed_ns = 0;         // wall clock
    bool active = false;            // somebody is bringing it
};

/// Thread-safe. Blobs are plain files root/content/blobs/sha256/<hex>.
class ContentStore {
  public:
    ContentStore(const std::string &root, Db &db, bool durable, const PartialLimits &limits = {});
    ~ContentStore();

    bool has(const std::string &digest) const;
    UniqueFd open(const std::string &digest) const; // kNotFound
    std::string read(const std::string &digest, size_t limit) const;
    uint64_t size(const std::string &digest) const;
    /// Stores small content (manifest, config) at once; verifies when `digest` is not "".
    std::string put(std::string_view bytes, const std::string &media_type, const std::string &digest = "");
    std::unique_ptr<Ingest> ingest(const std::string &digest, uint64_t size, const std::string &media_type);
    /// Interrupted and running downloads, the longest untouched first.
    std::vector<PartialBlob> partials() const;
    /// Drops those that are too old, and the oldest until the rest is within the budget; done by itself at
    /// start, when an ingest begins or ends, and now and then. Returns bytes freed.
    uint64_t trim_partials();
    /// Drops interrupted ones, oldest first, until `wanted` bytes are free on the disk; ~0: all.
    uint64_t drop_partials(uint64_t wanted = ~uint64_t(0));
    /// Bytes that the disk has left for the engine, and its size.
    std::pair<uint64_t, uint64_t> disk_space() const;
    void remove(const std::string &digest);
    /// An empty file without a name on the store's file system, for bytes whose digest is not known yet.
    UniqueFd scratch() const;
    /// A directory on the blobs' file system for files on their way in; emptied at start. One for each call,
    /// the caller removes it.
    std::string make_spool() const;
    /// Another name for a complete file of a spool, whose digest and size the caller has verified: it is a
    /// blob from here on and costs no copy. One that is there already stays.
    void adopt(const std::string &file, const std::string &digest, uint64_t size,
               const std::string &media_type);
    std::vector<std::string> list() const;
    /// What blobs, layers and images the database has until now survives a power cut from here on; nothing
    /// to do unless the store is durable.
    void settle();
    /// Finishes or undoes what a killed process left.
    void recover();

  private:
    struct Impl;
    bool whole_by_journal(const std::string &digest, const std::string &path);
    std::unique_ptr<Impl> impl_;
};

} // namespace gantry
