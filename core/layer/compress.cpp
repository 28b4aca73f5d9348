// Deflate by ISA-L; see compress.h.
#include "core/layer/compress.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <isa-l/igzip_lib.h>

namespace gantry {
namespace {

constexpr size_t kOutputSize = 256 << 10;
constexpr size_t kPiece = 1u << 30; // ISA-L counts in 32 bits

} // namespace

struct GzipWriter::Impl {
    ByteSink sink;
    isal_zstream stream;
    std::unique_ptr<uint8_t[]> level_buffer, output;

    explicit Impl(ByteSink sink_)
        : sink(std::move(sink_)), level_buffer(std::make_unique<uint8_t[]>(ISAL_DEF_LVL2_DEFAULT)),
          output(std::make_unique_for_overwrite<uint8_t[]>(kOutputSize)) {
        isal_deflate_init(&stream);
        stream.level = 2;
        stream.level_buf = level_buffer.get();
        stream.level_buf_size = ISAL_DEF_LVL2_DEFAULT;
        stream.gzip_flag = IGZIP_GZIP;
        stream.flush = NO_FLUSH;
    }
    void run(const uint8_t *data, size_t size, bool last) {
        stream.next_in = const_cast<uint8_t *>(data);
        stream.avail_in = static_cast<uint32_t>(size);
        stream.end_of_stream = last;
        do {
            stream.next_out = output.get();
            stream.avail_out = kOutputSize;
            if (isal_deflate(&stream) != COMP_OK)
                throw Error(ErrorClass::kInternal, "compress layer: the compressor failed");
            if (const size_t made = kOutputSize - stream.avail_out; made > 0) sink(output.get(), made);
        } while (stream.avail_out == 0 || stream.avail_in > 0);
    }
};

GzipWriter::GzipWriter(ByteSink sink) : impl_(std::make_unique<Impl>(std::move(sink))) {}
GzipWriter::~GzipWriter() = default;

void GzipWriter::write(const void *data, size_t size) {
    const auto *bytes = static_cast<const uint8_t *>(data);
    while (size > 0) {
        const size_t n = std::min(size, kPiece);
        impl_->run(bytes, n, false);
        bytes += n;
        size -= n;
    }
}

void GzipWriter::finish() { impl_->run(nullptr, 0, true); }

} // namespace gantry
