// Where the bytes of a download go. Bytes are written first and claimed after (journal.h); the hash follows
// the first hole from whoever writes, out of the writer's own buffer where it can, so that one stream costs
// no second look at its bytes and parallel ranges are read back from the page cache.
#include "core/content/ingest.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr uint64_t kNoteEach = 256 << 10; // what a killed process may lose
constexpr uint64_t kFlushEach = 8 << 20;  // the disk works while the network does
constexpr uint64_t kHashAtOnce = 4 << 20; // of bytes that others wrote, so that no connection waits long
constexpr size_t kReadBuffer = 256 << 10;

std::vector<BlobRange> without(const std::vector<BlobRange> &ranges, const BlobRange &hole) {
    std::vector<BlobRange> out;
    for (const BlobRange &range : ranges) {
        if (range.begin < std::min(range.end, hole.begin))
            out.push_back({range.begin, std::min(range.end, hole.begin)});
        if (std::max(range.begin, hole.end) < range.end)
            out.push_back({std::max(range.begin, hole.end), range.end});
    }
    return out;
}

} // namespace

Partial::Partial(std::string digest, uint64_t size, const std::string &path)
    : digest_(std::move(digest)), algorithm_(digest_.substr(0, digest_.find(':'))),
      data_path_(path + ".partial"), journal_path_(path + ".journal"), size_(size), hasher_(algorithm_) {
    fd_ = open_file(data_path_, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    journal_ = std::make_unique<PartialJournal>(journal_path_);
    struct stat st {};
    if (::fstat(fd_.get(), &st) != 0) throw Error::from_errno(errno, "stat " + data_path_);
    auto found = journal_->load();
    // A claim beyond the end of the file is another file's.
    if (found && found->size == size_ &&
        (found->pieces.empty() || found->pieces.back().end <= static_cast<uint64_t>(st.st_size))) {
        state_ = std::move(*found);
        if (hasher_.restore(state_.hash, state_.hashed)) hashed_ = state_.hashed;
    } else {
        state_.size = size_;
        journal_->forget();
        if (::ftruncate(fd_.get(), 0) != 0) throw Error::from_errno(errno, "truncate " + data_path_);
    }
}

uint64_t Partial::written() const {
    const std::lock_guard lock(mutex_);
    return state_.prefix();
}
uint64_t Partial::present() const {
    const std::lock_guard lock(mutex_);
    return state_.present();
}
std::vector<BlobRange> Partial::missing() const {
    const std::lock_guard lock(mutex_);
    return state_.missing();
}
bool Partial::differed() const {
    const std::lock_guard lock(mutex_);
    return differed_;
}
uint64_t Partial::unsettled() const {
    const std::lock_guard lock(mutex_);
    return since_settle_;
}

std::vector<Ingest::Source> Partial::sources() const {
    const std::lock_guard lock(mutex_);
    std::vector<Ingest::Source> out;
    for (const std::string &endpoint : state_.endpoints)
        out.push_back({endpoint, 0});
    for (const auto &piece : state_.pieces)
        out[piece.endpoint].bytes += piece.end - piece.begin;
    std::erase_if(out, [](const Ingest::Source &source) { return source.bytes == 0; });
    return out;
}

void Partial::pwrite_all(uint64_t at, const char *data, size_t size) {
    while (size > 0) {
        const ssize_t n = ::pwrite(fd_.get(), data, size, static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "write " + data_path_);
        at += static_cast<uint64_t>(n);
        data += n;
        size -= static_cast<size_t>(n);
    }
}

void Partial::pread_all(uint64_t at, char *data, size_t size) const {
    while (size > 0) {
        const ssize_t n = ::pread(fd_.get(), data, size, static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "read " + data_path_);
        if (n == 0) throw Error(ErrorClass::kDataLoss, "read " + data_path_ + ": shorter than written");
        at += static_cast<uint64_t>(n);
        data += n;
        size -= static_cast<size_t>(n);
    }
}

bool Partial::replaces_other(uint64_t at, const char *data, size_t size) const {
    std::vector<char> was(size);
    pread_all(at, was.data(), size);
    return std::memcmp(was.data(), data, size) != 0;
}

void Partial::write(uint64_t at, const char *data, size_t size, const std::string &endpoint) {
    if (at > size_ || size > size_ - at)
        throw Error(ErrorClass::kDataLoss, "receive blob " + digest_ + ": more than the announced " +
                                               std::to_string(size_) + " bytes came");
    // Each byte is written by one writer alone, which may then hash its own copy of it.
    std::vector<BlobRange> mine, doubted;
    {
        const std::lock_guard lock(mutex_);
        mine = state_.missing_in(at, at + size);
        for (const BlobRange &other : in_flight_)
            mine = without(mine, other);
        in_flight_.insert(in_flight_.end(), mine.begin(), mine.end());
        for (const BlobRange &range : mine)
            for (const BlobRange &was : doubted_)
                if (was.begin < range.end && was.end > range.begin)
                    doubted.push_back({std::max(was.begin, range.begin), std::min(was.end, range.end)});
    }
    bool other = false, flush = false, noted = false;
    const auto landed = [&](bool written) {
        const std::lock_guard lock(mutex_);
        const uint32_t index = state_.endpoint_index(endpoint);
        for (const BlobRange &range : mine) {
            std::erase(in_flight_, range);
            if (!written) continue;
            state_.add(range.begin, range.end, index);
            since_note_ += range.end - range.begin;
            since_settle_ += range.end - range.begin;
            since_flush_ += range.end - range.begin;
        }
        differed_ = differed_ || other;
        if ((noted = since_note_ >= kNoteEach || !noted_)) since_note_ = 0;
        noted_ = noted_ || noted;
        if ((flush = since_flush_ >= kFlushEach)) since_flush_ = 0;
    };
    try {
        for (const BlobRange &range : doubted)
            other = other || replaces_other(range.begin, data + (range.begin - at), range.end - range.begin);
        for (const BlobRange &range : mine)
            pwrite_all(range.begin, data + (range.begin - at), range.end - range.begin);
    } catch (...) {
        landed(false);
        throw;
    }
    failpoint("blob.part");
    landed(true);
    {
        const std::unique_lock hashing(hash_mutex_, std::try_to_lock);
        if (hashing) hash_on(mine, at, data, kHashAtOnce); // else somebody is at it
    }
    if (noted) note();
    if (flush) ::sync_file_range(fd_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
}

/// Hashes up to the first hole: at most `limit` bytes that have to be read back.
void Partial::hash_on(const std::vector<BlobRange> &mine, uint64_t at, const char *data, uint64_t limit) {
    std::vector<char> buffer;
    for (uint64_t read = 0; read < limit;) {
        uint64_t end = 0;
        {
            const std::lock_guard lock(mutex_);
            end = state_.prefix();
        }
        if (hashed_ >= end) return;
        uint64_t stop = std::min<uint64_t>(end, hashed_ + kReadBuffer);
        const char *bytes = nullptr;
        for (const BlobRange &range : mine) {
            if (range.begin <= hashed_ && hashed_ < range.end) {
                bytes = data + (hashed_ - at);
                stop = std::min(end, range.end);
            } else if (range.begin > hashed_ && !bytes) {
                stop = std::min(stop, range.begin);
            }
        }
        const size_t n = static_cast<size_t>(stop - hashed_);
        if (!bytes) {
            buffer.resize(kReadBuffer);
            pread_all(hashed_, buffer.data(), n);
            bytes = buffer.data();
            read += n;
        }
        hasher_.update(bytes, n);
        hashed_ += n;
    }
}

bool Partial::matches() {
    const std::lock_guard hashing(hash_mutex_);
    hash_on({}, 0, nullptr, ~uint64_t(0));
    return hashed_ == size_ && hasher_.digest() == digest_;
}

uint64_t Partial::doubt(const std::string &endpoint) {
    const std::lock_guard writing(journal_mutex_);
    uint64_t bytes = 0;
    {
        const std::scoped_lock lock(hash_mutex_, mutex_);
        differed_ = false;
        doubted_.clear();
        const uint32_t index = state_.endpoint_index(endpoint);
        for (const auto &piece : state_.pieces)
            if (piece.endpoint == index) {
                doubted_.push_back({piece.begin, piece.end});
                bytes += piece.end - piece.begin;
            }
        std::erase_if(state_.pieces, [&](const auto &piece) { return piece.endpoint == index; });
        if (hashed_ > state_.prefix()) {
            hasher_ = Hasher(algorithm_);
            hashed_ = 0;
        }
    }
    journal_->forget();
    journal_->note(snapshot());
    return bytes;
}

PartialState Partial::snapshot() {
    const std::scoped_lock lock(hash_mutex_, mutex_);
    PartialState out = state_;
    out.hash = hasher_.state();
    out.hashed = hashed_;
    return out;
}

void Partial::note() {
    const std::lock_guard writing(journal_mutex_);
    if (dropped_) return;
    journal_->note(snapshot());
}

void Partial::sync_data() {
    if (::fdatasync(fd_.get()) != 0) throw Error::from_errno(errno, "sync " + data_path_);
}

void Partial::settle() {
    const std::lock_guard writing(journal_mutex_);
    if (dropped_) return;
    {
        const std::lock_guard lock(mutex_);
        if (since_settle_ == 0) return;
        since_settle_ = 0;
    }
    try {
        const PartialState state = snapshot(); // first: what comes during the sync is not claimed
        sync_data();
        journal_->settle(state);
    } catch (...) {
        const std::lock_guard lock(mutex_);
        since_settle_ = std::max<uint64_t>(since_settle_, 1);
        throw;
    }
}

void Partial::forget_journal() {
    const std::lock_guard writing(journal_mutex_);
    dropped_ = true;
    ::unlink(journal_path_.c_str());
}

void Partial::drop() {
    forget_journal();
    failpoint("partial.dropping");
    ::unlink(data_path_.c_str());
}

void Partial::drop(const std::string &path) {
    ::unlink((path + ".journal").c_str()); // the claim before what it claims
    failpoint("partial.dropping");
    ::unlink((path + ".partial").c_str());
}

} // namespace gantry
