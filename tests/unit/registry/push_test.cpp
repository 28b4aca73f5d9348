// Pushes to registries that fail in every way promised to be survived.
#include "oci_driver.h"
#include "oci_push.h"
#include "push_registry.h"

#include <cstring>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

namespace {

using namespace gantry;
using oci::OciDriver;
using oci::Options;

struct PushCall {
    gantry_error_sink sink{};
    gantry_call raw{};
    PushCall() {
        raw.struct_size = sizeof raw;
        raw.cancel_fd = -1;
        raw.error = &sink;
        raw.subject = "";
    }
    operator Call() const { return Call(&raw); }
};

std::string bytes_of(size_t size) {
    std::string out(size, 0);
    for (size_t i = 0; i < size; ++i)
        out[i] = static_cast<char>(i * 7 + i / 251);
    return out;
}
const std::string kSmall = bytes_of(100'000), kLarge = bytes_of(700 << 10); // three chunks
const std::string kDigest = "sha256:" + std::string(64, 'b');

BlobSource source_of(const std::string &bytes, size_t *read = nullptr) {
    return [&bytes, read](uint64_t at, void *data, size_t size) -> size_t {
        if (at >= bytes.size()) return 0;
        const size_t n = std::min<size_t>(size, bytes.size() - at);
        std::memcpy(data, bytes.data() + at, n);
        if (read) *read += n;
        return n;
    };
}

Push push_of(const PushRegistry &registry, const std::string &bytes, const std::string &repository = "a/b") {
    Push push;
    push.to = {registry.server.host(), repository, "", ""};
    push.descriptor = {"application/octet-stream", kDigest, bytes.size(), ""};
    return push;
}

struct Case {
    PushRegistry registry;
    OciDriver driver{[] {
        Options options;
        options.stall_timeout_ns = 2'000'000'000;
        options.upload_chunk = 320 << 10;
        return options;
    }()};
    PushCall call;
    void push(const std::string &bytes, const std::string &mount_from = "") {
        Push what = push_of(registry, bytes);
        what.mount_from = mount_from;
        driver.push(call, what, source_of(bytes));
    }
    std::string stored() const {
        const auto found = registry.blobs.find("a/b@" + kDigest);
        return found == registry.blobs.end() ? "" : found->second;
    }
};

TEST(OciPush, SmallBlobGoesInOnePutAndIsNotSentTwice) {
    Case c;
    c.push(kSmall);
    EXPECT_EQ(c.stored(), kSmall);
    EXPECT_EQ(c.registry.count("PATCH"), 0u);
    EXPECT_EQ(c.registry.count("PUT"), 1u);
    const auto sent = c.registry.received;
    try {
        c.push(kSmall);
        FAIL() << "the blob was there";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kAlreadyExists);
    }
    EXPECT_EQ(c.registry.received, sent);
}

TEST(OciPush, LargeBlobGoesInChunks) {
    Case c;
    c.registry.absolute = true;
    c.push(kLarge);
    EXPECT_TRUE(c.stored() == kLarge);
    EXPECT_EQ(c.registry.count("PATCH"), 3u);
    EXPECT_EQ(c.registry.received, kLarge.size());
}

TEST(OciPush, CutConnectionGoesOnAtTheByteReached) {
    Case c;
    c.registry.cuts = {std::string::npos, 50 << 10}; // in the middle of the second chunk
    c.push(kLarge);
    EXPECT_TRUE(c.stored() == kLarge);
    EXPECT_EQ(c.registry.received, kLarge.size()) << "bytes were sent twice";
    EXPECT_EQ(c.registry.count("POST"), 1u);
}

TEST(OciPush, UploadThatWasForgottenBeginsAnew) {
    Case c;
    c.registry.forgets = true;
    c.registry.cuts = {std::string::npos, 1 << 10};
    c.push(kLarge);
    EXPECT_TRUE(c.stored() == kLarge);
    EXPECT_EQ(c.registry.count("POST"), 2u);
}

TEST(OciPush, SmallBlobThatWasCutIsSentAgain) {
    Case c;
    c.registry.cuts = {1000};
    c.push(kSmall);
    EXPECT_TRUE(c.stored() == kSmall);
}

TEST(OciPush, RegistryWithoutChunksGetsTheWhole) {
    Case c;
    c.registry.takes_patch = false;
    c.push(kLarge);
    EXPECT_TRUE(c.stored() == kLarge);
    EXPECT_EQ(c.registry.count("PUT"), 1u);
}

TEST(OciPush, TroubleOfAMomentIsWaitedOut) {
    Case c;
    c.registry.troubled = "POST";
    c.registry.troubles = {503, 429};
    c.push(kSmall);
    EXPECT_TRUE(c.stored() == kSmall);
    c.registry.troubled = "PATCH";
    c.registry.troubles = {500};
    c.registry.blobs.clear();
    c.push(kLarge);
    EXPECT_TRUE(c.stored() == kLarge);
}

TEST(OciPush, RefusalIsSaidAtOnce) {
    Case c;
    c.registry.troubled = "POST";
    c.registry.troubles = {403};
    try {
        c.push(kSmall);
        FAIL() << "no error";
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kPermissionDenied) << error.message();
    }
    EXPECT_EQ(c.registry.count("POST"), 1u);
}

TEST(OciPush, BlobIsMountedFromItsOtherRepository) {
    Case c;
    c.registry.blobs["other/x@" + kDigest] = kSmall;
    size_t read = 0;
    Push what = push_of(c.registry, kSmall);
    what.mount_from = "other/x";
    c.driver.push(c.call, what, source_of(kSmall, &read));
    EXPECT_TRUE(c.stored() == kSmall);
    EXPECT_EQ(read, 0u);
    EXPECT_EQ(c.registry.count("PUT"), 0u);
}

TEST(OciPush, RegistryThatDoesNotMountGetsTheBytes) {
    Case c;
    c.registry.mounts = false;
    c.registry.blobs["other/x@" + kDigest] = kSmall;
    c.push(kSmall, "other/x");
    EXPECT_TRUE(c.stored() == kSmall);
    EXPECT_EQ(c.registry.count("POST"), 1u) << "the answer to the mount is an upload already";
}

TEST(OciPush, ManifestByTagAndByDigest) {
    Case c;
    const std::string manifest = R"({"schemaVersion":2})";
    Push what = push_of(c.registry, manifest);
    what.is_manifest = true;
    what.descriptor.media_type = "application/vnd.oci.image.manifest.v1+json";
    what.to.tag = "v1";
    c.driver.push(c.call, what, source_of(manifest));
    EXPECT_EQ(c.registry.manifests["a/b:v1"], manifest);
    EXPECT_EQ(c.registry.types["a/b:v1"], what.descriptor.media_type);
    what.to.tag.clear();
    c.driver.push(c.call, what, source_of(manifest));
    EXPECT_EQ(c.registry.manifests["a/b@" + kDigest], manifest);
}

TEST(OciPush, CredentialsAreNotShownToTheStoreOfUploads) {
    Case c;
    PushRegistry store;
    c.registry.upload_host = "http://localhost:" + store.server.host().substr(10);
    store.uploads["1"] = "";
    Push what = push_of(c.registry, kSmall);
    what.credential = Credential{c.registry.server.host(), "user", "secret", "", "ready-token"};
    c.driver.push(c.call, what, source_of(kSmall));
    EXPECT_EQ(store.blobs["a/b@" + kDigest], kSmall);
    ASSERT_FALSE(c.registry.server.seen().empty());
    EXPECT_EQ(c.registry.server.seen()[0].header("authorization"), "Bearer ready-token");
    for (const auto &request : store.server.seen())
        EXPECT_EQ(request.header("authorization"), "");
}

TEST(OciPush, LocationsAndRanges) {
    using namespace gantry::oci;
    EXPECT_EQ(resolve_location("https://r/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/1?x=y"),
              "https://r/v2/a/blobs/uploads/1?x=y");
    EXPECT_EQ(resolve_location("https://r/v2/a/blobs/uploads/", "https://s:5/u?x=y"), "https://s:5/u?x=y");
    EXPECT_THROW(resolve_location("https://r/v2/", "http://r/v2/u"), Error);
    EXPECT_THROW(resolve_location("https://r/v2/", "file:///etc/passwd"), Error);
    EXPECT_THROW(resolve_location("https://r/v2/", ""), Error);
    EXPECT_EQ(with_digest("https://r/u", "sha256:a"), "https://r/u?digest=sha256%3Aa");
    EXPECT_EQ(with_digest("https://r/u?x=y", "sha256:a"), "https://r/u?x=y&digest=sha256%3Aa");
    EXPECT_EQ(uploaded_bytes("0-99"), 100u);
    EXPECT_EQ(uploaded_bytes("bytes=0-99"), 100u);
    EXPECT_EQ(uploaded_bytes("0-0"), 0u);
    for (const char *odd : {"", "5-9", "0-", "0-x", "0-9 ", "0-99999999999999999999"})
        EXPECT_FALSE(uploaded_bytes(odd)) << odd;
    EXPECT_EQ(next_link("</v2/a/tags/list?n=2&last=b>; rel=\"next\""), "/v2/a/tags/list?n=2&last=b");
    EXPECT_EQ(next_link("</x>; rel=\"prev\""), "");
    EXPECT_EQ(next_link("nonsense"), "");
}

} // namespace
