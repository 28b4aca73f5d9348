#include "core/content/journal.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace gantry {
namespace {

constexpr size_t kSlot = 256 << 10; // the file is sparse: a record of some pieces takes one block
constexpr unsigned kSlots = 4;
constexpr off_t kBlock = 4096;
constexpr char kMagic[8] = {'g', 'p', 'a', 'r', 't', '0', '0', '1'};
constexpr size_t kMaxEndpoints = 64, kMaxEndpointName = 1024, kMaxPieces = 7000, kMaxHash = 1024;
constexpr size_t kSum = 71; // "sha256:" and the digits

struct Head {
    char magic[8];
    uint64_t sequence;
    uint32_t settled, length; // of what follows
    char boot[40];
};

const std::string &boot_id() {
    static const std::string id = [] {
        bool found = false;
        std::string text = read_file_if("/proc/sys/kernel/random/boot_id", found, 64);
        text.resize(sizeof Head::boot, '\0');
        return text;
    }();
    return id;
}

void put_number(std::string &out, uint64_t value) {
    out.append(reinterpret_cast<const char *>(&value), sizeof value);
}
void put_text(std::string &out, const std::string &text) {
    put_number(out, text.size());
    out += text;
}

struct Reader {
    std::string_view left;
    bool good = true;
    uint64_t number() {
        uint64_t value = 0;
        if (left.size() < sizeof value) return good = false, 0;
        std::memcpy(&value, left.data(), sizeof value);
        left.remove_prefix(sizeof value);
        return value;
    }
    std::string text(size_t limit) {
        const uint64_t size = number();
        if (!good || size > limit || size > left.size()) return good = false, std::string();
        std::string out(left.substr(0, size));
        left.remove_prefix(size);
        return out;
    }
};

std::string encode(const PartialState &state) {
    std::string out;
    put_number(out, state.size);
    put_number(out, state.hashed);
    put_text(out, state.hash);
    put_number(out, state.endpoints.size());
    for (const std::string &endpoint : state.endpoints)
        put_text(out, endpoint);
    put_number(out, state.pieces.size());
    for (const PartialState::Piece &piece : state.pieces) {
        put_number(out, piece.begin);
        put_number(out, piece.end);
        put_number(out, piece.endpoint);
    }
    return out;
}

bool decode(std::string_view bytes, PartialState &state) {
    Reader in{bytes};
    state.size = in.number();
    state.hashed = in.number();
    state.hash = in.text(kMaxHash);
    const uint64_t endpoints = in.number();
    if (!in.good || endpoints > kMaxEndpoints) return false;
    for (uint64_t i = 0; i < endpoints; ++i)
        state.endpoints.push_back(in.text(kMaxEndpointName));
    const uint64_t pieces = in.number();
    if (!in.good || pieces > kMaxPieces) return false;
    uint64_t end = 0;
    for (uint64_t i = 0; i < pieces && in.good; ++i) {
        PartialState::Piece piece{in.number(), in.number(), static_cast<uint32_t>(in.number())};
        if (piece.begin < end || piece.end <= piece.begin || piece.end > state.size ||
            piece.endpoint >= state.endpoints.size())
            return false;
        end = piece.end;
        state.pieces.push_back(piece);
    }
    return in.good && in.left.empty() && state.hashed <= state.prefix();
}

/// Puts neighbours of different endpoints together, as nobody's, until the record fits.
PartialState bounded(PartialState state) {
    if (state.pieces.size() <= kMaxPieces) return state;
    const uint32_t nobody = state.endpoint_index("");
    std::vector<PartialState::Piece> out;
    for (const auto &piece : state.pieces) {
        if (!out.empty() && out.back().end == piece.begin)
            out.back() = {out.back().begin, piece.end, nobody};
        else
            out.push_back(piece);
    }
    out.resize(std::min(out.size(), kMaxPieces)); // so many holes: the last are asked for again
    state.pieces = std::move(out);
    return state;
}

} // namespace

uint64_t PartialState::prefix_end() const {
    uint64_t end = 0;
    for (const Piece &piece : pieces) {
        if (piece.begin != end) break;
        end = piece.end;
    }
    return end;
}

uint64_t PartialState::present() const {
    uint64_t out = 0;
    for (const Piece &piece : pieces)
        out += piece.end - piece.begin;
    return out;
}

std::vector<BlobRange> PartialState::missing() const { return missing_in(0, size); }

std::vector<BlobRange> PartialState::missing_in(uint64_t begin, uint64_t end) const {
    std::vector<BlobRange> out;
    auto next = std::upper_bound(pieces.begin(), pieces.end(), begin,
                                 [](uint64_t at, const Piece &piece) { return at < piece.end; });
    for (uint64_t at = begin; at < end;) {
        const uint64_t stop = next == pieces.end() ? end : std::min(end, next->begin);
        if (at < stop) out.push_back({at, stop});
        if (next == pieces.end()) break;
        at = std::max(at, next->end);
        ++next;
    }
    return out;
}

uint32_t PartialState::endpoint_index(const std::string &endpoint) {
    const std::string name = endpoint.substr(0, kMaxEndpointName);
    const auto found = std::find(endpoints.begin(), endpoints.end(), name);
    if (found != endpoints.end()) return static_cast<uint32_t>(found - endpoints.begin());
    if (endpoints.size() == kMaxEndpoints) return 0; // absurd; blame is then less exact
    endpoints.push_back(name);
    return static_cast<uint32_t>(endpoints.size() - 1);
}

void PartialState::add(uint64_t begin, uint64_t end, uint32_t endpoint) {
    auto next = std::lower_bound(pieces.begin(), pieces.end(), begin,
                                 [](const Piece &piece, uint64_t at) { return piece.begin < at; });
    const bool joins_next = next != pieces.end() && next->begin == end && next->endpoint == endpoint;
    if (next != pieces.begin() && std::prev(next)->end == begin && std::prev(next)->endpoint == endpoint) {
        std::prev(next)->end = joins_next ? next->end : end;
        if (joins_next) pieces.erase(next);
    } else if (joins_next) {
        next->begin = begin;
    } else {
        pieces.insert(next, {begin, end, endpoint});
    }
}

PartialJournal::PartialJournal(const std::string &path)
    : path_(path), fd_(open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600)) {
    reserve();
}

/// The first block of each slot, so that the bytes which fill the disk can still be noted. Where that cannot
/// be had, a note is written as long as there is space.
void PartialJournal::reserve() noexcept {
    for (unsigned slot = 0; slot < kSlots; ++slot)
        if (::fallocate(fd_.get(), 0, static_cast<off_t>(slot * kSlot), kBlock) != 0) return;
}

std::optional<PartialState> PartialJournal::load() {
    std::optional<PartialState> best;
    uint64_t best_sequence = 0;
    for (unsigned slot = 0; slot < kSlots; ++slot) {
        std::string bytes(kSlot, '\0');
        ssize_t n = 0;
        do
            n = ::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(slot * kSlot));
        while (n < 0 && errno == EINTR);
        if (n < 0) throw Error::from_errno(errno, "read " + path_);
        Head head{};
        if (static_cast<size_t>(n) < sizeof head) continue;
        std::memcpy(&head, bytes.data(), sizeof head);
        if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0 ||
            static_cast<size_t>(n) < sizeof head + kSum ||
            head.length > static_cast<size_t>(n) - sizeof head - kSum)
            continue;
        const std::string_view all(bytes.data(), sizeof head + head.length);
        if (sha256_of(all) != std::string_view(bytes).substr(all.size(), kSum)) continue; // torn
        sequence_ = std::max(sequence_, head.sequence);
        if (head.settled != (slot >= 2)) continue;
        if (!head.settled && std::string_view(head.boot, sizeof head.boot) != boot_id()) continue;
        PartialState state;
        if ((best && head.sequence < best_sequence) || !decode(all.substr(sizeof head), state)) continue;
        best = std::move(state);
        best_sequence = head.sequence;
        turn_[slot / 2] = (slot + 1) & 1;
    }
    return best;
}

void PartialJournal::note(const PartialState &state) { put(state, false); }

void PartialJournal::settle(const PartialState &state) {
    put(state, true);
    if (::fdatasync(fd_.get()) != 0) throw Error::from_errno(errno, "sync " + path_);
}

void PartialJournal::forget() {
    if (::ftruncate(fd_.get(), 0) != 0) throw Error::from_errno(errno, "truncate " + path_);
    reserve();
}

void PartialJournal::put(const PartialState &state, bool settled) {
    const std::string body = encode(bounded(state));
    Head head{};
    std::memcpy(head.magic, kMagic, sizeof kMagic);
    head.sequence = ++sequence_;
    head.settled = settled;
    head.length = static_cast<uint32_t>(body.size());
    std::memcpy(head.boot, boot_id().data(), sizeof head.boot);
    std::string record(reinterpret_cast<const char *>(&head), sizeof head);
    record += body;
    record += sha256_of(record);
    const unsigned slot = (settled ? 2 : 0) + (turn_[settled]++ & 1);
    for (size_t at = 0; at < record.size();) {
        const ssize_t n = ::pwrite(fd_.get(), record.data() + at, record.size() - at,
                                   static_cast<off_t>(slot * kSlot + at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "write " + path_);
        at += static_cast<size_t>(n);
    }
    failpoint(settled ? "partial.settled" : "partial.noted");
}

} // namespace gantry
