// What is there of a blob that is still coming, written down so that the next process goes on from it.
//
// A record is the whole truth at one moment: ranges with who gave them, and the state of the hash of the
// first bytes. Records are written in turn into two slots, so that a torn one leaves the one before. Two
// kinds: a *note* follows the bytes into the page cache, which outlives the process (SIGKILL) but not the
// machine; a *settled* record follows fdatasync of the bytes and is synced itself. After a reboot, told by
// the kernel's boot id, only settled ones count. So a journal never claims bytes that are not there.
#pragma once

#include "core/base/fd.h"
#include "core/content/content.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gantry {

struct PartialState {
    struct Piece {
        uint64_t begin = 0, end = 0;
        uint32_t endpoint = 0; // index of endpoints
    };
    uint64_t size = 0;   // of the blob
    uint64_t hashed = 0; // bytes in `hash`; not beyond the first piece
    std::string hash;    // Hasher::state()
    std::vector<std::string> endpoints;
    std::vector<Piece> pieces; // sorted, apart

    uint64_t prefix() const { return pieces.empty() || pieces.front().begin != 0 ? 0 : prefix_end(); }
    uint64_t present() const;
    std::vector<BlobRange> missing() const;
    std::vector<BlobRange> missing_in(uint64_t begin, uint64_t end) const;
    uint32_t endpoint_index(const std::string &endpoint);
    void add(uint64_t begin, uint64_t end, uint32_t endpoint); // overlaps nothing

  private:
    uint64_t prefix_end() const;
};

/// Not thread-safe.
class PartialJournal {
  public:
    /// Opens or makes it.
    explicit PartialJournal(const std::string &path);
    /// The newest record that holds; nullopt when there is none.
    std::optional<PartialState> load();
    void note(const PartialState &state);
    /// The bytes that `state` claims are synced.
    void settle(const PartialState &state);
    /// Before bytes that a record claims are written anew.
    void forget();

  private:
    void reserve() noexcept;
    void put(const PartialState &state, bool settled);
    std::string path_;
    UniqueFd fd_;
    uint64_t sequence_ = 0;
    unsigned turn_[2] = {0, 0}; // the slot to write next, of notes and of settled ones
};

} // namespace gantry
