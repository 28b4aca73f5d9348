// The bytes of one blob, from whichever endpoints work.
#pragma once

#include "core/base/cancel.h"
#include "core/content/content.h"
#include "core/image/manifest.h"
#include "core/image/transfer_limits.h"

#include <gantry/registry.hpp>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace gantry {

struct BlobFetchSettings {
    RegistryDriver &registry;
    ContentStore &content; // gives up interrupted downloads when the disk is full
    Connections &connections;
    Bandwidth &bandwidth;
    RegistryReference from;
    std::optional<Credential> credential;
    uint32_t parallel_ranges;
    uint64_t range_size;
};

/// Fills an ingest until its digest is right. One use; run() blocks, cancel() comes from any thread.
class BlobFetch {
  public:
    /// `advanced`: more bytes may be read; from several threads. `wrong`: what was read may be wrong, and
    /// comes anew.
    BlobFetch(const BlobFetchSettings &settings, const BlobRef &blob, Ingest &ingest,
              std::function<void()> advanced, std::function<void()> wrong);
    /// Throws kCancelled, what the registry driver throws, kNoSpace, kDataLoss (then nothing is kept).
    void run();
    void cancel();

  private:
    struct Claim { // a range that somebody fetches
        uint64_t at = 0, end = 0;
        int64_t moved_ns = 0; // CLOCK_MONOTONIC, of the last byte
        std::string endpoint; // of the last byte
        CancelSource *call = nullptr;
        bool given_up = false; // others have taken what was left
    };

    void fill();
    void fill_in_one_stream();
    void fill_in_ranges(const std::vector<BlobRange> &missing);
    void work(bool may_hire);
    bool claim(std::list<Claim>::iterator &out);
    bool take_over(std::list<Claim>::iterator &out);
    void fetch(uint64_t offset, uint64_t length, CancelSource &cancel, Claim *claim);
    void store(const std::string &endpoint, uint64_t at, const void *data, size_t size);
    std::optional<std::string> suspect(const std::set<std::string> &cleared);
    bool stopped() const { return cancelled_; }

    const BlobFetchSettings &settings_;
    const BlobRef &blob_;
    Ingest &ingest_;
    std::function<void()> advanced_, wrong_;
    std::vector<std::string> avoid_;
    bool ranges_ = true; // honoured, as far as is known

    std::atomic<bool> cancelled_{false};
    std::mutex mutex_;
    std::condition_variable changed_;
    std::set<CancelSource *> calls_;
    std::vector<BlobRange> free_; // that nobody fetches, in order
    std::list<Claim> claims_;
    std::set<std::string> stalled_;
    std::exception_ptr error_;
    size_t workers_ = 0;
    std::vector<std::jthread> hired_;
};

} // namespace gantry
