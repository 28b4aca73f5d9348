// Blobs and documents that are fetched in one piece and wanted whole: for pushes, copies, manifests,
// signatures. Layers of a pull stream into their unpacking instead (download.h, fetch_blob.h).
#pragma once

#include "core/base/cancel.h"
#include "core/base/fd.h"
#include "core/content/content.h"

#include <gantry/registry.hpp>

#include <functional>
#include <string>

namespace gantry {

/// Throws kInvalidArgument for what is announced as larger than `limit` bytes.
void check_announced_size(const std::string &digest, uint64_t size, size_t limit);

/// What `fetch.descriptor` names, judged by digest and, where one is known, by size. Endpoints that serve
/// other bytes are avoided for the next attempt, of `attempts`. Throws as check_announced_size, and kDataLoss
/// when nobody had the right ones.
std::string fetch_document(RegistryDriver &registry, Fetch fetch, size_t limit, int attempts,
                           const Call &call);

/// The same for a blob of any size, by way of the content store, from where an earlier attempt ended; opened.
/// It stays there when `keep`. `progress` is told the bytes reached.
UniqueFd fetch_stored(RegistryDriver &registry, ContentStore &content, Fetch fetch, bool keep, int attempts,
                      const CancelSource &cancel, const std::function<void(uint64_t)> &progress);

} // namespace gantry
