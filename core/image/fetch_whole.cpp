#include "core/image/fetch_whole.h"

#include "core/base/log.h"
#include "core/image/download.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <vector>

namespace gantry {
namespace {

std::string digest_as(const std::string &like, std::string_view bytes) {
    Hasher hasher(like.substr(0, like.find(':')));
    hasher.update(bytes.data(), bytes.size());
    return hasher.digest();
}

} // namespace

void check_announced_size(const std::string &digest, uint64_t size, size_t limit) {
    if (size > limit)
        throw Error(ErrorClass::kInvalidArgument, "fetch " + digest + ": " + std::to_string(size) +
                                                      " bytes are more than " + std::to_string(limit));
}

std::string fetch_document(RegistryDriver &registry, Fetch fetch, size_t limit, int attempts,
                           const Call &call) {
    const std::string digest = fetch.descriptor.digest;
    const uint64_t wanted = fetch.descriptor.size;
    check_announced_size(digest, wanted, limit);
    for (int wrong = 0;; ++wrong) {
        std::string bytes;
        std::vector<std::string> served;
        registry.fetch(
            call, fetch, [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                if (at != bytes.size() || bytes.size() + size > limit)
                    throw Error(ErrorClass::kDataLoss, "fetch " + digest + ": more bytes than announced");
                if (std::find(served.begin(), served.end(), endpoint) == served.end())
                    served.push_back(endpoint);
                bytes.append(static_cast<const char *>(data), size);
            });
        const std::string got = digest_as(digest, bytes);
        if (got == digest && (wanted == 0 || bytes.size() == wanted)) return bytes;
        if (wrong + 1 >= attempts || served.empty())
            throw Error(ErrorClass::kDataLoss, "fetch " + digest + ": got " + got + " of " +
                                                   std::to_string(bytes.size()) + " bytes");
        log_warn("fetch {}: {} served other bytes; asking another endpoint", digest, served.front());
        fetch.avoid.push_back(served.front());
    }
}

UniqueFd fetch_stored(RegistryDriver &registry, ContentStore &content, Fetch fetch, bool keep, int attempts,
                      const CancelSource &cancel, const std::function<void(uint64_t)> &progress) {
    const std::string digest = fetch.descriptor.digest;
    const uint64_t wanted = fetch.descriptor.size;
    for (int wrong = 0;; ++wrong) {
        auto ingest = content.ingest(digest, wanted, fetch.descriptor.media_type);
        const bool resumed = ingest->written() > 0;
        fetch.offset = ingest->written();
        std::string served;
        try {
            CallScope scope(cancelled_by(cancel));
            if (ingest->written() < wanted)
                registry.fetch(scope, fetch,
                               [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                                   if (at != ingest->written())
                                       throw Error(ErrorClass::kInternal,
                                                   "fetch " + digest + ": the registry driver skipped bytes");
                                   if (served.empty()) served = endpoint;
                                   ingest->write(data, size);
                                   progress(ingest->written());
                               });
            ingest->commit(keep);
            break;
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kNoSpace) ingest->drop();
            if (error.error_class() != ErrorClass::kDataLoss || wrong + 1 >= attempts) throw;
            ingest->drop();
            if (!resumed && !served.empty()) fetch.avoid.push_back(served);
        }
    }
    UniqueFd fd = content.open(digest);
    if (!keep) content.remove(digest); // the open file stays readable
    return fd;
}

} // namespace gantry
