// What a layer consists of, written down while it is unpacked, so that a file which later is cut short or
// changed on disk can be told. A diff ID cannot serve: nobody can make another's tar again from a tree.
// The record follows from the tar alone (it keeps whiteouts as such), so it is named by the diff ID and
// stays true in every storage driver. Contents are summed by CRC-64 as the bytes pass (they are in the
// cache, at about 10 GB/s): that finds damage, not malice; who can write to the root can write records too.
#pragma once

#include <gantry/call.hpp>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace gantry {

class Layers;

/// The sum of a file's content, holes counted as zeros.
class ContentSum {
  public:
    void begin() { *this = {}; }
    void add(uint64_t offset, const void *bytes, size_t size);
    /// nullopt: not summed (parts out of order, or holes that would take too long to count).
    std::optional<uint64_t> end(uint64_t size);

  private:
    void zeros(uint64_t count);
    uint64_t at_ = 0, sum_ = 0;
    bool known_ = true;
};
uint64_t sum_of(uint64_t sum, const void *bytes, size_t size);

struct RecordedEntry {
    enum Kind : uint8_t { kDirectory = 1, kFile, kSymlink, kNode, kHardLink, kWhiteout, kOpaque };
    Kind kind = kFile;
    std::string path;   // clean; of a whiteout: what it hides
    std::string target; // of a link
    mode_t mode = 0;    // permissions; of a node the type too
    uid_t uid = 0;
    gid_t gid = 0;
    uint64_t size = 0, rdev = 0;
    int64_t mtime = 0;
    std::optional<uint64_t> content;
    uint64_t attributes = 0; // sum of the extended ones
};
/// Of names and values, in any order.
uint64_t attributes_sum(const std::map<std::string, std::string> &attributes);

/// Not thread-safe. Entries in the order of the tar: later ones replace.
class LayerRecord {
  public:
    LayerRecord();
    ~LayerRecord();
    void add(const RecordedEntry &entry);
    /// "" when the layer is too large to be recorded.
    std::string end();

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// root/layer-records/<algorithm>-<hex>. Thread-safe.
class LayerRecords {
  public:
    explicit LayerRecords(std::string folder);
    bool has(const std::string &diff_id) const;
    void put(const std::string &diff_id, LayerRecord &record, bool durable);
    /// Throws kNotFound, and kDataLoss when it is damaged itself.
    std::vector<RecordedEntry> read(const std::string &diff_id) const;
    void remove(const std::string &diff_id);
    /// Removes those of other layers, and what a killed process left. Returns their names.
    std::vector<std::string> keep_only(const std::set<std::string> &diff_ids, bool dry_run = false);

  private:
    std::string path_of(const std::string &diff_id) const;
    std::string folder_;
};

struct LayerVerdict {
    uint64_t entries = 0, bytes = 0;     // looked at
    uint64_t damaged = 0;                // entries that are not as recorded
    std::vector<std::string> first;      // the first few, one sentence each
    std::vector<std::string> unrecorded; // layers without a record: nothing of them was compared
};

/// Compares every file of a layer with the records: of its own part where layers are independent, else of
/// the whole tree, since such a driver keeps copies. Without `contents` no file is opened.
LayerVerdict verify_layer(const Layers &layers, const LayerRecords &records, const std::string &id,
                          const Call &call, bool contents = true);

} // namespace gantry
