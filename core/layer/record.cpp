#include "core/layer/record.h"

#include "core/base/files.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstring>
#include <isa-l/crc64.h>
#include <unistd.h>
#include <zstd.h>

namespace gantry {
namespace {

constexpr char kMagic[] = "gantry layer record 1\n";
constexpr uint64_t kMaxHoles = 1ull << 30; // counted as zeros within one file
constexpr size_t kMaxRecord = 256u << 20;  // uncompressed: about four million entries
constexpr size_t kCompressAt = 256 << 10;
constexpr char kEndMark = 0;

[[noreturn]] void damaged(const std::string &path) {
    throw Error(ErrorClass::kDataLoss, "read layer record " + path + ": it is damaged");
}

class Reader {
  public:
    Reader(std::string_view bytes, const std::string &path) : bytes_(bytes), path_(path) {}
    uint64_t number() {
        uint64_t out = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<uint8_t>(take(1)[0]);
            out |= uint64_t(byte & 127) << shift;
            if (byte < 128) return out;
        }
        damaged(path_);
    }
    std::string_view take(size_t size) {
        if (size > bytes_.size() - at_) damaged(path_);
        at_ += size;
        return bytes_.substr(at_ - size, size);
    }

  private:
    std::string_view bytes_;
    const std::string &path_;
    size_t at_ = 0;
};

} // namespace

uint64_t sum_of(uint64_t sum, const void *bytes, size_t size) {
    return crc64_ecma_refl(sum, static_cast<const unsigned char *>(bytes), size);
}

void ContentSum::add(uint64_t offset, const void *bytes, size_t size) {
    if (offset < at_) known_ = false;
    if (!known_) return;
    zeros(offset - at_);
    if (known_) sum_ = sum_of(sum_, bytes, size);
    at_ = offset + size;
}

std::optional<uint64_t> ContentSum::end(uint64_t size) {
    if (size < at_) known_ = false;
    if (known_) zeros(size - at_);
    return known_ ? std::optional(sum_) : std::nullopt;
}

void ContentSum::zeros(uint64_t count) {
    static const char kZeros[64 << 10] = {};
    if (count > kMaxHoles) known_ = false;
    for (; known_ && count > 0; count -= std::min<uint64_t>(count, sizeof kZeros))
        sum_ = sum_of(sum_, kZeros, std::min<uint64_t>(count, sizeof kZeros));
}

uint64_t attributes_sum(const std::map<std::string, std::string> &attributes) {
    uint64_t sum = 0;
    for (const auto &[name, value] : attributes) {
        const uint64_t size = value.size();
        sum = sum_of(sum, name.c_str(), name.size() + 1);
        sum = sum_of(sum, &size, sizeof size);
        sum = sum_of(sum, value.data(), value.size());
    }
    return sum;
}

struct LayerRecord::Impl {
    std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx *)> zstd{ZSTD_createCCtx(), ZSTD_freeCCtx};
    std::string plain = kMagic, packed, last_path;
    size_t total = 0;

    void number(uint64_t value) {
        for (; value >= 128; value >>= 7)
            plain += static_cast<char>(value | 128);
        plain += static_cast<char>(value);
    }
    void text(std::string_view value) {
        number(value.size());
        plain += value;
    }
    void compress(ZSTD_EndDirective how) {
        total += plain.size();
        if (total > kMaxRecord) packed.clear();
        ZSTD_inBuffer in{plain.data(), plain.size(), 0};
        for (size_t rest = 1; total <= kMaxRecord && (rest != 0 || in.pos < in.size);) {
            const size_t at = packed.size();
            packed.resize(at + ZSTD_CStreamOutSize());
            ZSTD_outBuffer out{packed.data() + at, packed.size() - at, 0};
            rest = ZSTD_compressStream2(zstd.get(), &out, &in, how);
            packed.resize(at + out.pos);
            if (ZSTD_isError(rest)) throw Error(ErrorClass::kInternal, "compress layer record");
            if (how == ZSTD_e_continue && in.pos == in.size) break;
        }
        plain.clear();
    }
};

LayerRecord::LayerRecord() : impl_(std::make_unique<Impl>()) {
    if (!impl_->zstd) throw std::bad_alloc();
    ZSTD_CCtx_setParameter(impl_->zstd.get(), ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(impl_->zstd.get(), ZSTD_c_checksumFlag, 1);
}
LayerRecord::~LayerRecord() = default;

void LayerRecord::add(const RecordedEntry &e) {
    Impl &r = *impl_;
    if (r.total > kMaxRecord) return;
    r.plain += static_cast<char>(e.kind);
    const auto common = static_cast<size_t>(
        std::mismatch(e.path.begin(), e.path.end(), r.last_path.begin(), r.last_path.end()).first -
        e.path.begin());
    r.number(common);
    r.text(std::string_view(e.path).substr(common));
    r.last_path = e.path;
    r.text(e.target);
    for (const uint64_t value : {uint64_t(e.mode), uint64_t(e.uid), uint64_t(e.gid), e.size, e.rdev,
                                 uint64_t(e.mtime), uint64_t(e.content.has_value())})
        r.number(value);
    const uint64_t sums[2] = {e.content.value_or(0), e.attributes};
    r.plain.append(reinterpret_cast<const char *>(sums), sizeof sums);
    if (r.plain.size() >= kCompressAt) r.compress(ZSTD_e_continue);
}

std::string LayerRecord::end() {
    impl_->plain += kEndMark;
    impl_->compress(ZSTD_e_end);
    return std::move(impl_->packed);
}

LayerRecords::LayerRecords(std::string folder) : folder_(std::move(folder)) {
    if (!folder_.empty()) make_directories(folder_, 0700);
}

std::string LayerRecords::path_of(const std::string &diff_id) const {
    std::string name = diff_id; // judged where it came from: hex after "sha256:"
    std::replace(name.begin(), name.end(), ':', '-');
    if (folder_.empty() || name.empty() || name.find('/') != name.npos)
        throw Error(ErrorClass::kNotFound, "find layer record " + diff_id + ": there is none");
    return folder_ + "/" + name;
}

bool LayerRecords::has(const std::string &diff_id) const {
    return !folder_.empty() && !diff_id.empty() && path_exists(path_of(diff_id));
}

void LayerRecords::put(const std::string &diff_id, LayerRecord &record, bool durable) {
    const std::string bytes = record.end();
    if (!bytes.empty() && !folder_.empty()) write_file_atomically(path_of(diff_id), bytes, 0600, durable);
}

void LayerRecords::remove(const std::string &diff_id) {
    if (has(diff_id)) ::unlink(path_of(diff_id).c_str());
}

std::vector<RecordedEntry> LayerRecords::read(const std::string &diff_id) const {
    const std::string path = path_of(diff_id);
    const std::string packed = read_file(path, kMaxRecord);
    std::string plain;
    const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx *)> zstd(ZSTD_createDCtx(), ZSTD_freeDCtx);
    if (!zstd) throw std::bad_alloc();
    ZSTD_inBuffer in{packed.data(), packed.size(), 0};
    for (size_t rest = 1; rest != 0;) {
        const size_t at = plain.size(), before = in.pos;
        if (at > kMaxRecord) damaged(path);
        plain.resize(at + ZSTD_DStreamOutSize());
        ZSTD_outBuffer out{plain.data() + at, plain.size() - at, 0};
        rest = ZSTD_decompressStream(zstd.get(), &out, &in);
        plain.resize(at + out.pos);
        if (ZSTD_isError(rest) || (out.pos == 0 && in.pos == before)) damaged(path);
    }
    if (!plain.starts_with(kMagic)) damaged(path);
    Reader from(std::string_view(plain).substr(sizeof kMagic - 1), path);
    std::vector<RecordedEntry> out;
    std::string last;
    for (;;) {
        const char kind = from.take(1)[0];
        if (kind == kEndMark) return out;
        RecordedEntry e;
        e.kind = static_cast<RecordedEntry::Kind>(kind);
        const uint64_t common = from.number();
        if (common > last.size() || kind > RecordedEntry::kOpaque) damaged(path);
        e.path = last.substr(0, common);
        e.path += from.take(from.number());
        last = e.path;
        e.target = from.take(from.number());
        e.mode = static_cast<mode_t>(from.number());
        e.uid = static_cast<uid_t>(from.number());
        e.gid = static_cast<gid_t>(from.number());
        e.size = from.number();
        e.rdev = from.number();
        e.mtime = static_cast<int64_t>(from.number());
        const bool summed = from.number() != 0;
        uint64_t sums[2];
        std::memcpy(sums, from.take(sizeof sums).data(), sizeof sums);
        if (summed) e.content = sums[0];
        e.attributes = sums[1];
        out.push_back(std::move(e));
    }
}

std::vector<std::string> LayerRecords::keep_only(const std::set<std::string> &diff_ids, bool dry_run) {
    std::vector<std::string> gone;
    if (folder_.empty()) return gone;
    for (const std::string &name : list_directory(folder_)) {
        std::string diff_id = name;
        if (const size_t dash = diff_id.find('-'); dash != diff_id.npos) diff_id[dash] = ':';
        if (diff_ids.contains(diff_id)) continue;
        if (!dry_run) remove_tree(folder_ + "/" + name);
        gone.push_back(name);
    }
    return gone;
}

} // namespace gantry
