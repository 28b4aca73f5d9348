// One fetch: it goes on at the byte reached when the endpoint that was serving fails, so that a cut
// connection costs what was in flight and nothing more. A parallel range (a length, not from byte 0)
// takes the least busy of equal endpoints.
#include "oci_driver.h"

#include "manifest_accept.h"

#include <algorithm>

namespace gantry::oci {
namespace {

constexpr int kRounds = 3;       // over all endpoints, without a byte of progress
constexpr int kMaxAttempts = 64; // that brought less than kProgress: one byte a time is useless
constexpr uint64_t kProgress = 64 << 10;
constexpr int64_t kFirstWaitMs = 200; // then four times as long

/// "bytes 100-199/200"; total 0 when it is not told. False when the header is missing or odd.
bool content_range(const HttpResponse &response, uint64_t &start, uint64_t &total) {
    const std::string value = response.header("content-range");
    if (!value.starts_with("bytes ")) return false;
    total = 0;
    if (const size_t slash = value.find('/'); slash != std::string::npos && value[slash + 1] != '*')
        total = std::strtoull(value.c_str() + slash + 1, nullptr, 10);
    if (value[6] == '*') return response.status == 416;
    char *end = nullptr;
    errno = 0;
    start = std::strtoull(value.c_str() + 6, &end, 10);
    return errno == 0 && end && *end == '-';
}

bool gives_up(const Error &error) {
    return error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline;
}

} // namespace

class OciDriver::Download {
  public:
    Download(OciDriver &driver, const Call &call, const Fetch &fetch, const BlobSink &sink)
        : d_(driver), call_(call), fetch_(fetch), sink_(sink), digest_(fetch.descriptor.digest),
          doing_("fetch " + digest_ + " of " + fetch.from.registry + "/" + fetch.from.repository),
          size_(fetch.descriptor.size), end_(fetch.length ? fetch.offset + fetch.length : size_),
          at_(fetch.offset), parallel_(fetch.length != 0 && fetch.offset != 0) {}

    void run();

  private:
    struct Choice {
        Endpoint endpoint;
        bool alternative; // another one could go on from here
        bool whole;       // may send everything again from byte 0
    };
    std::optional<Choice> pick(std::unique_ptr<Health::InFlight> &flight);
    bool attempt(const Choice &choice);
    bool take(const Choice &choice, const HttpResponse &head, const char *data, size_t size);
    bool fast_enough(const Choice &choice);
    bool finished() const { return end_ != 0 && at_ >= end_; }
    /// This answer is no good; ends the transfer.
    bool odd(ErrorClass error_class, std::string why) {
        odd_ = {error_class, "", std::move(why), 0};
        return false;
    }
    void blame(const Endpoint &endpoint, Failure failure);

    OciDriver &d_;
    const Call &call_;
    const Fetch &fetch_;
    const BlobSink &sink_;
    const std::string digest_, doing_;
    const uint64_t size_, end_; // 0 unknown
    uint64_t at_;               // every byte below it has been handed over
    const bool parallel_;

    std::vector<Failure> failures_;
    std::set<std::string> refused_;  // 404 and the like: asking again cannot help
    std::set<std::string> tried_;    // in this round
    std::set<std::string> whole_;    // ignores ranges
    std::set<std::string> plain_;    // of those: refuses requests for one
    std::set<std::string> was_slow_; // left for it once, which is enough
    bool avoided_ = false, explore_ = true;
    int64_t soonest_ns_ = 0; // Retry-After of the first one that may be asked again

    // of the present attempt
    bool first_ = true, ignored_range_ = false, slow_ = false;
    uint64_t position_ = 0; // of the next byte of this answer
    std::optional<Failure> odd_;
    int64_t begun_ns_ = 0, sink_ns_ = 0; // since the first byte; in the receiver
    int64_t window_ns_ = 0, window_sink_ns_ = 0;
    uint64_t window_at_ = 0;
};

std::optional<OciDriver::Download::Choice>
OciDriver::Download::pick(std::unique_ptr<Health::InFlight> &flight) {
    std::lock_guard lock(d_.choice_mutex_);
    auto list = d_.chosen(fetch_.from.registry, fetch_.length ? Purpose::kRange : Purpose::kBytes,
                          end_ ? end_ - at_ : 0, std::exchange(explore_, false));
    soonest_ns_ = 0;
    std::erase_if(list, [&](const Endpoint &e) {
        if (std::find(fetch_.avoid.begin(), fetch_.avoid.end(), e.url) != fetch_.avoid.end()) {
            if (!avoided_) {
                failures_.push_back({ErrorClass::kDataLoss, e.url, "gave wrong bytes before, not asked", 0});
                d_.health_.failed(e.url, Fault::kCorrupt, "gave wrong bytes");
            }
            return true;
        }
        if (refused_.contains(e.url)) return true;
        if (const int64_t wait = d_.health_.wait_ns(e.url); wait > 0) {
            if (soonest_ns_ == 0 || wait < soonest_ns_) soonest_ns_ = wait;
            if (!tried_.contains(e.url)) failures_.push_back(*d_.waiting(e));
            tried_.insert(e.url);
            return true;
        }
        if (parallel_ && d_.health_.get(e.url).no_ranges) whole_.insert(e.url);
        return parallel_ && whole_.contains(e.url);
    });
    avoided_ = true;
    // From the middle on, who cannot start there comes last.
    const auto from_the_middle = [&](const Endpoint &e) {
        return at_ == 0 || (!whole_.contains(e.url) && !d_.health_.get(e.url).no_ranges);
    };
    std::stable_partition(list.begin(), list.end(), from_the_middle);
    const auto open = [&](const Endpoint &e) { return !tried_.contains(e.url); };
    const auto found = std::find_if(list.begin(), list.end(), open);
    if (found == list.end()) return std::nullopt;
    Choice out{*found, false, true};
    for (const Endpoint &e : list) {
        if (e.url == found->url) continue;
        if (d_.health_.resting_ns(e.url) == 0 && !was_slow_.contains(e.url) && from_the_middle(e))
            out.alternative = true;
        if (open(e) && !whole_.contains(e.url)) out.whole = false;
    }
    if (whole_.contains(found->url)) out.whole = true; // nothing better is left
    if (parallel_) out.whole = false;
    tried_.insert(found->url);
    flight = std::make_unique<Health::InFlight>(d_.health_, found->url);
    return out;
}

bool OciDriver::Download::take(const Choice &choice, const HttpResponse &head, const char *data,
                               size_t size) {
    if (first_) {
        first_ = false;
        position_ = 0;
        begun_ns_ = window_ns_ = Call::now_ns();
        window_at_ = at_;
        uint64_t total = 0;
        if (head.status == 206) {
            if (!content_range(head, position_, total) || position_ > at_ || (parallel_ && position_ != at_))
                return odd(ErrorClass::kUnavailable, "answered another range than asked for");
            d_.health_.ignores_ranges(choice.endpoint.url, false);
        } else {
            if (at_ > 0 || fetch_.length) {
                d_.health_.ignores_ranges(choice.endpoint.url, true);
                if (at_ > 0 && !choice.whole) {
                    ignored_range_ = true;
                    return false;
                }
            }
            total = std::strtoull(head.header("content-length").c_str(), nullptr, 10);
        }
        if (size_ != 0 && total != 0 && total != size_)
            return odd(ErrorClass::kDataLoss, "has " + std::to_string(total) +
                                                  " bytes under this digest instead of " +
                                                  std::to_string(size_));
    }
    if (position_ < at_) { // a server that ignores Range starts from the beginning
        const uint64_t skip = std::min<uint64_t>(at_ - position_, size);
        position_ += skip;
        data += skip;
        size -= skip;
    }
    const size_t wanted = end_ != 0 ? std::min<uint64_t>(size, end_ - at_) : size;
    if (wanted > 0) {
        const int64_t before = Call::now_ns();
        sink_(d_.spoken_url(choice.endpoint), at_, data, wanted);
        sink_ns_ += Call::now_ns() - before;
        at_ += wanted;
        position_ += wanted;
        call_.progress(digest_.c_str(), at_, end_);
    }
    return wanted == size; // the rest is not for us; else the connection may be used again
}

bool OciDriver::Download::fast_enough(const Choice &choice) {
    if (first_ || d_.options_.min_speed == 0 || !choice.alternative ||
        was_slow_.contains(choice.endpoint.url))
        return true;
    const int64_t now = Call::now_ns();
    const int64_t active = now - window_ns_ - (sink_ns_ - window_sink_ns_); // a slow disk is not their fault
    if (active < d_.options_.min_speed_window_ns) return true;
    const double speed = static_cast<double>(at_ - window_at_) * 1e9 / static_cast<double>(active);
    window_ns_ = now;
    window_sink_ns_ = sink_ns_;
    window_at_ = at_;
    if (speed >= static_cast<double>(d_.options_.min_speed)) return true;
    slow_ = true;
    return odd(ErrorClass::kUnavailable, "slow: " + std::to_string(static_cast<uint64_t>(speed)) +
                                             " bytes/s, left at byte " + std::to_string(at_));
}

void OciDriver::Download::blame(const Endpoint &endpoint, Failure failure) {
    failure.where = d_.spoken_url(endpoint);
    if (failure.error_class != ErrorClass::kUnavailable) refused_.insert(endpoint.url);
    if (slow_) {
        was_slow_.insert(endpoint.url);
        d_.health_.failed(failure.where, Fault::kSlow, failure.why);
    } else if (failure.error_class == ErrorClass::kDataLoss) {
        d_.health_.failed(failure.where, Fault::kCorrupt, failure.why);
    } else {
        d_.mark_failed(failure);
    }
    failures_.push_back(std::move(failure));
}

/// True when everything has been handed over.
bool OciDriver::Download::attempt(const Choice &choice) {
    const Endpoint &e = choice.endpoint;
    const uint64_t before = at_;
    first_ = true;
    ignored_range_ = slow_ = false;
    odd_.reset();
    begun_ns_ = sink_ns_ = window_sink_ns_ = 0;
    HttpRequest wanted;
    if (fetch_.is_manifest) wanted.headers.push_back(kManifestAccept);
    if ((at_ > 0 || fetch_.length) && !(choice.whole && plain_.contains(e.url)))
        wanted.headers.push_back("Range: bytes=" + std::to_string(at_) + "-" +
                                 (fetch_.length ? std::to_string(end_ - 1) : ""));
    wanted.sink = [&](const HttpResponse &head, const void *data, size_t size) {
        return take(choice, head, static_cast<const char *>(data), size);
    };
    wanted.go_on = [&] { return fast_enough(choice); };
    const auto measure = [&] {
        if (begun_ns_)
            d_.health_.served(d_.spoken_url(e), at_ - before, Call::now_ns() - begun_ns_ - sink_ns_);
    };
    try {
        const auto response = d_.request(
            call_, e, fetch_.from.registry, e.scope(fetch_.from.repository), fetch_.credential, wanted,
            e.path(fetch_.from.repository, (fetch_.is_manifest ? "/manifests/" : "/blobs/") + digest_));
        measure();
        const bool good = response.status == 200 || response.status == 206;
        uint64_t start = 0, total = 0;
        // A byte that must be there, by the size of the blob: it knows no ranges, or it is another blob. From
        // the beginning it may still serve, and its size then tells.
        const bool refused_range = response.status == 416 && at_ < end_ && plain_.insert(e.url).second;
        if (refused_range) d_.health_.ignores_ranges(e.url, true);
        if (ignored_range_ || refused_range) {
            whole_.insert(e.url);
            failures_.push_back({ErrorClass::kUnsupported, d_.spoken_url(e),
                                 refused_range
                                     ? "refuses to begin at byte " + std::to_string(at_) + " (HTTP 416)"
                                     : "does not serve ranges",
                                 0});
            if (!parallel_) tried_.erase(e.url); // again, when nobody else is left
            return false;
        }
        if (!odd_ && (finished() || (end_ == 0 && good) ||
                      (end_ == 0 && response.status == 416 && content_range(response, start, total) &&
                       total == at_))) {
            d_.health_.answered(d_.spoken_url(e), response.first_byte_ns);
            d_.mark_ok(d_.spoken_url(e));
            return true;
        }
        if (odd_) {
            blame(e, *odd_);
        } else if (good) {
            blame(e, {ErrorClass::kUnavailable, "",
                      "the answer ended at byte " + std::to_string(at_) + " of " + std::to_string(end_), 0});
        } else if (response.status == 416) {
            blame(e, {ErrorClass::kDataLoss, "", "has no byte " + std::to_string(at_) + " (HTTP 416)", 0});
        } else {
            blame(e, d_.judge(e, response));
        }
    } catch (const SinkStopped &stopped) {
        std::rethrow_exception(stopped.why);
    } catch (const TransportError &error) {
        measure();
        if (finished()) return true; // all is there, only the end was not said
        blame(e,
              {ErrorClass::kUnavailable, "", error.message() + " (at byte " + std::to_string(at_) + ")", 0});
    } catch (const Error &error) {
        if (gives_up(error)) throw;
        blame(e, {error.error_class(), "", error.message(), 0});
    }
    return false;
}

void OciDriver::Download::run() {
    if (finished()) return;
    int attempts = 0;
    int64_t waited_ns = 0;
    for (int round = 0; round < kRounds && attempts < kMaxAttempts;) {
        const uint64_t before_round = at_;
        bool asked = false;
        tried_.clear();
        while (attempts < kMaxAttempts) {
            std::unique_ptr<Health::InFlight> flight;
            const auto choice = pick(flight);
            if (!choice) break;
            call_.check(doing_);
            asked = true;
            const uint64_t before = at_;
            if (attempt(*choice)) return;
            if (at_ < before + kProgress) ++attempts;
        }
        if (!asked) { // all that is left asked for patience
            if (soonest_ns_ == 0 || waited_ns + soonest_ns_ > d_.options_.max_wait_ns) break;
            waited_ns += soonest_ns_;
            const int64_t ms = soonest_ns_ / 1'000'000 + 1;
            wait_or_cancel(call_, ms, ms + ms / 8 + 1, doing_);
            continue;
        }
        round = at_ > before_round ? 0 : round + 1; // it moves: be patient
        if (const int64_t ms = kFirstWaitMs << (2 * std::max(0, round - 1)); round < kRounds)
            wait_or_cancel(call_, ms / 2, ms * 3 / 2, doing_);
    }
    if (parallel_ && !whole_.empty())
        throw Error(ErrorClass::kUnsupported, doing_ + ": no endpoint that works serves ranges");
    throw combined(doing_, failures_);
}

void OciDriver::fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) {
    check_path_part(fetch.from.repository, "repository");
    check_path_part(fetch.descriptor.digest, "digest");
    table_.check_allowed("fetch " + fetch.from.registry + "/" + fetch.from.repository, fetch.from.registry,
                         fetch.from.repository);
    const HealthScope scope(*this, call);
    Download(*this, call, fetch, sink).run();
}

} // namespace gantry::oci
