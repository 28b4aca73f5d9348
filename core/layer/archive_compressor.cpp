#include "core/layer/archive_compressor.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <isa-l/igzip_lib.h>
#include <vector>
#include <zstd.h>

namespace gantry {
namespace {

constexpr size_t kOutput = 256 << 10;
constexpr int kZstdLevel = 3;

} // namespace

struct ArchiveCompressor::Impl {
    virtual ~Impl() = default;
    explicit Impl(ByteSink to) : sink(std::move(to)) {}
    virtual void write(const void *bytes, size_t size, bool) {
        if (size > 0) sink(bytes, size);
    }
    ByteSink sink;
};

namespace {

class Gzip final : public ArchiveCompressor::Impl {
  public:
    explicit Gzip(ByteSink to)
        : Impl(std::move(to)), stream_(std::make_unique<isal_zstream>()), level_(ISAL_DEF_LVL1_DEFAULT),
          output_(kOutput) {
        isal_deflate_init(stream_.get());
        stream_->level = 1;
        stream_->level_buf = level_.data();
        stream_->level_buf_size = static_cast<uint32_t>(level_.size());
        stream_->gzip_flag = IGZIP_GZIP;
        stream_->flush = NO_FLUSH;
    }
    void write(const void *bytes, size_t size, bool last) override {
        const auto *from = static_cast<const uint8_t *>(bytes);
        do {
            const size_t part = std::min<size_t>(size, 1u << 30);
            stream_->next_in = const_cast<uint8_t *>(from);
            stream_->avail_in = static_cast<uint32_t>(part);
            from += part;
            size -= part;
            stream_->end_of_stream = last && size == 0 ? 1 : 0;
            do {
                stream_->next_out = output_.data();
                stream_->avail_out = kOutput;
                if (isal_deflate(stream_.get()) != COMP_OK)
                    throw Error(ErrorClass::kInternal, "compress archive: the encoder failed");
                if (const size_t n = kOutput - stream_->avail_out; n > 0) sink(output_.data(), n);
            } while (stream_->avail_out == 0 || stream_->avail_in > 0);
        } while (size > 0);
    }

  private:
    std::unique_ptr<isal_zstream> stream_;
    std::vector<uint8_t> level_, output_;
};

class Zstd final : public ArchiveCompressor::Impl {
  public:
    explicit Zstd(ByteSink to)
        : Impl(std::move(to)), stream_(ZSTD_createCCtx(), ZSTD_freeCCtx), output_(kOutput) {
        if (!stream_) throw std::bad_alloc();
        ZSTD_CCtx_setParameter(stream_.get(), ZSTD_c_compressionLevel, kZstdLevel);
        ZSTD_CCtx_setParameter(stream_.get(), ZSTD_c_checksumFlag, 1);
    }
    void write(const void *bytes, size_t size, bool last) override {
        ZSTD_inBuffer in{bytes, size, 0};
        for (;;) {
            ZSTD_outBuffer out{output_.data(), output_.size(), 0};
            const size_t rest =
                ZSTD_compressStream2(stream_.get(), &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
            if (ZSTD_isError(rest))
                throw Error(ErrorClass::kInternal,
                            std::string("compress archive: ") + ZSTD_getErrorName(rest));
            if (out.pos > 0) sink(output_.data(), out.pos);
            if (last ? rest == 0 : in.pos == in.size) return;
        }
    }

  private:
    std::unique_ptr<ZSTD_CCtx, size_t (*)(ZSTD_CCtx *)> stream_;
    std::vector<uint8_t> output_;
};

} // namespace

ArchiveCompressor::ArchiveCompressor(const std::string &kind, ByteSink sink) {
    if (kind.empty())
        impl_ = std::make_unique<Impl>(std::move(sink));
    else if (kind == "gzip")
        impl_ = std::make_unique<Gzip>(std::move(sink));
    else if (kind == "zstd")
        impl_ = std::make_unique<Zstd>(std::move(sink));
    else
        throw Error(ErrorClass::kInvalidArgument, "compress archive: unknown kind " + kind,
                    "the kinds are gzip and zstd");
}
ArchiveCompressor::~ArchiveCompressor() = default;
void ArchiveCompressor::write(const void *bytes, size_t size) { impl_->write(bytes, size, false); }
void ArchiveCompressor::finish() { impl_->write(nullptr, 0, true); }

} // namespace gantry
