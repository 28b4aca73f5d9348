// A large blob is fetched in ranges by several connections, lowest missing bytes first, because the unpacker
// reads in order behind them. Towards the end ranges get smaller, and who has nothing left takes half of what
// the slowest still has to do, or all of it when nothing comes any more: mirrors of different speed end at
// about the same time, and one that dies costs what was on its way.
//
// Blobs have no sums of their parts. When the digest is wrong, the journal tells who gave what: the least
// trusted endpoint with the fewest bytes is suspected first, and only its bytes are asked for again, from
// others. Bytes that come back the same clear it; others convict it.
#include "core/image/fetch_blob.h"

#include "core/base/log.h"

#include <algorithm>
#include <chrono>

namespace gantry {
namespace {

constexpr int kMaxWrong = 8;                    // digests that were wrong
constexpr uint64_t kSmallestRange = 1 << 20;    // a request of its own must be worth it
constexpr int64_t kStalled = 3'000'000'000;     // ns without a byte, then an idle connection takes over
constexpr uint64_t kSpaceToMake = 256ull << 20; // at the cost of interrupted downloads

bool is_final(const Error &error) {
    return error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kNoSpace ||
           error.error_class() == ErrorClass::kInternal;
}

} // namespace

BlobFetch::BlobFetch(const BlobFetchSettings &settings, const BlobRef &blob, Ingest &ingest,
                     std::function<void()> advanced, std::function<void()> wrong)
    : settings_(settings), blob_(blob), ingest_(ingest), advanced_(std::move(advanced)),
      wrong_(std::move(wrong)) {}

void BlobFetch::cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (CancelSource *call : calls_)
        call->cancel();
    changed_.notify_all();
}

void BlobFetch::run() {
    std::set<std::string> cleared;
    std::optional<std::string> last; // who was suspected
    bool all_asked_again = false;
    for (int wrong = 0;;) {
        try {
            fill();
        } catch (const Error &error) {
            // Those that are left cannot: whom we blame may have been hit by a bit that flipped on its way.
            if (is_final(error) || avoid_.empty() || all_asked_again) throw;
            log_warn("download {}: {}; asking all endpoints again", blob_.digest, error.message());
            all_asked_again = true;
            avoid_.clear();
            continue;
        }
        if (ingest_.matches()) return;
        wrong_();
        if (last && !ingest_.differed()) { // others gave the same
            cleared.insert(*last);
            std::erase(avoid_, *last);
        }
        last = suspect(cleared);
        if (++wrong >= kMaxWrong || !last) {
            ingest_.drop();
            throw Error(ErrorClass::kDataLoss,
                        "download " + blob_.digest + ": the bytes that came have another digest",
                        "no endpoint of " + settings_.from.registry + " serves what its manifest promises");
        }
        const uint64_t bytes = ingest_.doubt(*last);
        log_warn("download {}: the digest is wrong; asking again for {} bytes of {}", blob_.digest, bytes,
                 last->empty() ? "an unknown endpoint" : *last);
        if (!last->empty()) avoid_.push_back(*last);
    }
}

/// Mirrors before the origin, then who gave the least; nobody when all are cleared.
std::optional<std::string> BlobFetch::suspect(const std::set<std::string> &cleared) {
    std::set<std::string> origins;
    try {
        const CallScope call;
        for (const EndpointLine &line : settings_.registry.explain(call, settings_.from))
            if (line.role == "origin") origins.insert(line.url);
    } catch (const Error &error) { // bytes alone decide
        log_debug("explain {}: {}", settings_.from.registry, error.message());
    }
    std::optional<std::string> out;
    std::pair<bool, uint64_t> least;
    for (const Ingest::Source &source : ingest_.sources()) {
        const std::pair<bool, uint64_t> trust(origins.contains(source.endpoint), source.bytes);
        if (cleared.contains(source.endpoint) || (out && trust >= least)) continue;
        out = source.endpoint;
        least = trust;
    }
    return out;
}

void BlobFetch::store(const std::string &endpoint, uint64_t at, const void *data, size_t size) {
    if (stopped()) throw Error(ErrorClass::kCancelled, "download " + blob_.digest + ": stopped");
    try {
        ingest_.write_at(at, data, size, endpoint);
    } catch (const Error &error) {
        // What somebody might go on with some day is worth less than what is asked for now.
        if (error.error_class() != ErrorClass::kNoSpace || settings_.content.drop_partials(kSpaceToMake) == 0)
            throw;
        ingest_.write_at(at, data, size, endpoint);
    }
    advanced_();
    settings_.bandwidth.took(size, [this] { return stopped(); });
}

void BlobFetch::fetch(uint64_t offset, uint64_t length, CancelSource &cancel, Claim *claim) {
    {
        const std::lock_guard lock(mutex_);
        if (cancelled_) throw Error(ErrorClass::kCancelled, "download " + blob_.digest + ": stopped");
        calls_.insert(&cancel);
    }
    struct Leave {
        BlobFetch &owner;
        CancelSource &cancel;
        ~Leave() {
            const std::lock_guard lock(owner.mutex_);
            owner.calls_.erase(&cancel);
        }
    } leave{*this, cancel};
    Fetch what;
    what.from = settings_.from;
    what.descriptor = {blob_.media_type, blob_.digest, blob_.size, ""};
    what.offset = offset;
    what.length = length;
    what.credential = settings_.credential;
    {
        const std::lock_guard lock(mutex_);
        what.avoid = avoid_;
        // As long as others bring something.
        std::set<std::string> moving;
        for (const Claim &other : claims_)
            if (!other.endpoint.empty() && !stalled_.contains(other.endpoint)) moving.insert(other.endpoint);
        if (!moving.empty()) what.avoid.insert(what.avoid.end(), stalled_.begin(), stalled_.end());
    }
    CallScope::Settings scope;
    scope.cancel = &cancel;
    const CallScope call(scope);
    uint64_t expected = offset;
    settings_.registry.fetch(
        call, what, [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
            if (at != expected)
                throw Error(ErrorClass::kInternal,
                            "download " + blob_.digest + ": the registry driver skipped bytes");
            expected += size;
            if (!claim) return store(endpoint, at, data, size);
            uint64_t end = 0;
            {
                const std::lock_guard lock(mutex_);
                if (error_) throw Error(ErrorClass::kCancelled, "download " + blob_.digest + ": stopped");
                end = claim->given_up ? at : claim->end;
                claim->endpoint = endpoint;
                claim->moved_ns = Call::now_ns();
            }
            const size_t mine = at >= end ? 0 : static_cast<size_t>(std::min<uint64_t>(size, end - at));
            if (mine > 0) store(endpoint, at, data, mine);
            const std::lock_guard lock(mutex_);
            claim->at = at + mine;
            claim->moved_ns = Call::now_ns(); // the limit of bandwidth is nobody's fault
            // Somebody else does the rest, or all is done: work() sees that this is no failure.
            if (mine < size)
                throw Error(ErrorClass::kCancelled, "download " + blob_.digest + ": the range ends here");
        });
}

void BlobFetch::fill() {
    for (;;) {
        const std::vector<BlobRange> missing = ingest_.missing();
        if (missing.empty()) return;
        uint64_t total = 0;
        for (const BlobRange &range : missing)
            total += range.end - range.begin;
        if (!ranges_ || settings_.parallel_ranges < 2 || total < 2 * settings_.range_size) {
            fill_in_one_stream();
            continue;
        }
        fill_in_ranges(missing);
    }
}

void BlobFetch::fill_in_one_stream() {
    const BlobRange hole = ingest_.missing().front();
    const uint64_t before = ingest_.present();
    CancelSource cancel;
    try {
        fetch(hole.begin, hole.end == blob_.size || !ranges_ ? 0 : hole.end - hole.begin, cancel, nullptr);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kUnsupported || !ranges_) throw;
        ranges_ = false;
        return;
    }
    if (ingest_.present() == before)
        throw Error(ErrorClass::kDataLoss, "download " + blob_.digest + ": the endpoints gave no bytes");
}

void BlobFetch::fill_in_ranges(const std::vector<BlobRange> &missing) {
    {
        const std::lock_guard lock(mutex_);
        free_ = missing;
        claims_.clear();
        error_ = nullptr;
        workers_ = 1;
    }
    work(true);
    hired_.clear(); // joins
    const std::lock_guard lock(mutex_);
    if (!error_) return;
    try {
        std::rethrow_exception(error_);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kUnsupported) throw;
        log_info("download {}: {}; going on in one stream", blob_.digest, error.message());
        ranges_ = false;
    }
}

/// A range that nobody fetches, or a part of another's. With the mutex held.
bool BlobFetch::claim(std::list<Claim>::iterator &out) {
    if (free_.empty()) return take_over(out);
    uint64_t left = 0;
    for (const BlobRange &range : free_)
        left += range.end - range.begin;
    const uint64_t share = std::clamp(left / (2 * settings_.parallel_ranges), kSmallestRange,
                                      std::max(settings_.range_size, kSmallestRange));
    BlobRange &first = free_.front();
    uint64_t end = std::min(first.end, first.begin + share);
    if (first.end - end < kSmallestRange / 2) end = first.end;
    out = claims_.insert(claims_.end(), Claim{});
    out->at = first.begin;
    out->end = end;
    out->moved_ns = Call::now_ns();
    first.begin = end;
    if (first.begin == first.end) free_.erase(free_.begin());
    return true;
}

bool BlobFetch::take_over(std::list<Claim>::iterator &out) {
    Claim *slowest = nullptr, *stuck = nullptr;
    const int64_t now = Call::now_ns();
    for (Claim &claim : claims_) {
        if (claim.given_up || claim.at >= claim.end) continue;
        if (now - claim.moved_ns > kStalled && !stuck) stuck = &claim;
        if (!slowest || claim.end - claim.at > slowest->end - slowest->at) slowest = &claim;
    }
    if (stuck) {
        out = claims_.insert(claims_.end(), Claim{stuck->at, stuck->end, now, "", nullptr, false});
        if (!stuck->endpoint.empty()) stalled_.insert(stuck->endpoint);
        stuck->given_up = true;
        if (stuck->call) stuck->call->cancel();
        return true;
    }
    if (!slowest || slowest->end - slowest->at < 2 * kSmallestRange) return false;
    const uint64_t middle = slowest->at + (slowest->end - slowest->at) / 2;
    out = claims_.insert(claims_.end(), Claim{middle, slowest->end, now, "", nullptr, false});
    slowest->end = middle;
    return true;
}

void BlobFetch::work(bool may_hire) {
    for (;;) {
        std::list<Claim>::iterator mine;
        CancelSource call;
        std::pair<uint64_t, uint64_t> range; // offset and length
        {
            std::unique_lock lock(mutex_);
            for (;;) {
                if (error_ || cancelled_) break;
                if (claim(mine)) break;
                if (claims_.empty()) break; // all is there
                changed_.wait_for(lock, std::chrono::milliseconds(500));
            }
            if (cancelled_ && !error_)
                error_ = std::make_exception_ptr(
                    Error(ErrorClass::kCancelled, "download " + blob_.digest + ": stopped"));
            if (error_ || (claims_.empty() && free_.empty())) return;
            mine->call = &call;
            range = {mine->at, mine->end - mine->at};
        }
        while (may_hire) {
            {
                const std::lock_guard lock(mutex_);
                if (workers_ >= settings_.parallel_ranges || free_.empty()) break;
            }
            auto slot = std::make_shared<Connections::Slot>(settings_.connections.take_if_free());
            if (!*slot) break;
            {
                const std::lock_guard lock(mutex_);
                ++workers_;
            }
            hired_.emplace_back([this, slot] {
                work(false);
                const std::lock_guard lock(mutex_);
                --workers_;
            });
        }
        try {
            fetch(range.first, range.second, call, &*mine);
            const std::lock_guard lock(mutex_);
            if (!mine->given_up && mine->at == range.first && mine->at < mine->end && !error_)
                throw Error(ErrorClass::kDataLoss,
                            "download " + blob_.digest + ": the endpoints gave no bytes");
        } catch (const Error &) {
            const std::lock_guard lock(mutex_);
            if (!mine->given_up && mine->at < mine->end && !error_) error_ = std::current_exception();
        } catch (...) {
            const std::lock_guard lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
        const std::lock_guard lock(mutex_);
        if (error_) // the others need not go on
            for (CancelSource *other : calls_)
                other->cancel();
        // What a driver left out without saying so is fetched again.
        if (!mine->given_up && mine->at < mine->end && !error_)
            free_.insert(free_.begin(), {mine->at, mine->end});
        claims_.erase(mine);
        changed_.notify_all();
    }
}

} // namespace gantry
