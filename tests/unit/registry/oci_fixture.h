// What the tests of the oci driver share: calls, one blob and one manifest, and drivers set up with mirrors.
#pragma once

#include "fault_server.h"
#include "oci_driver.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

namespace oci_test {

using namespace gantry;
using oci::OciDriver;
using oci::Options;

inline const char *const kType = "application/vnd.oci.image.manifest.v1+json";
inline const std::string kManifest = R"({"schemaVersion":2})";
inline const std::string kManifestDigest =
    "sha256:bafebd36189ad3688b7b3915ea55d461e0bfcfbdde11e54b0a123999fb6be50f";

/// A gantry_call as the core makes them, with a cancellation that the test controls.
struct TestCall {
    int event = ::eventfd(0, EFD_CLOEXEC);
    gantry_error_sink sink{};
    gantry_call raw{};
    TestCall() {
        raw.struct_size = sizeof raw;
        raw.cancel_fd = event;
        raw.error = &sink;
        raw.subject = "";
    }
    ~TestCall() { ::close(event); }
    void cancel() const { ASSERT_EQ(::eventfd_write(event, 1), 0); }
    operator Call() const { return Call(&raw); }
};

inline std::string blob_bytes(size_t size) {
    std::string out(size, 0);
    for (size_t i = 0; i < size; ++i)
        out[i] = static_cast<char>(i * 7 + i / 251);
    return out;
}

inline const std::string kBlob = blob_bytes(300000);
inline const std::string kDigest = "sha256:" + std::string(64, 'a');

inline FaultReply blob_reply(const FaultRequest &request, bool with_range = true) {
    FaultReply out;
    const std::string range = request.header("range");
    if (with_range && range.starts_with("bytes=")) {
        const size_t from = std::stoul(range.substr(6));
        const size_t dash = range.find('-');
        const size_t to = dash + 1 < range.size() ? std::stoul(range.substr(dash + 1)) + 1 : kBlob.size();
        out.status = 206;
        out.body = kBlob.substr(from, to - from);
        out.headers["Content-Range"] = "bytes " + std::to_string(from) + "-" + std::to_string(to - 1) + "/" +
                                       std::to_string(kBlob.size());
    } else {
        out.body = kBlob;
    }
    return out;
}

inline FaultReply manifest_reply() {
    return {200, kManifest, {{"Content-Type", kType}}, std::string::npos, false};
}

inline FaultReply status_reply(int status, std::map<std::string, std::string> headers = {}) {
    return {status, "", std::move(headers), std::string::npos, false};
}
inline FaultReply challenge(const std::string &value) {
    return status_reply(401, {{"WWW-Authenticate", value}});
}

inline Fetch blob_fetch(const std::string &registry) {
    Fetch out;
    out.from = {registry, "a/b", "latest", ""};
    out.descriptor = {"application/octet-stream", kDigest, kBlob.size(), ""};
    return out;
}

struct Received {
    std::string bytes;
    std::vector<std::string> endpoints;
    BlobSink sink() {
        return [this](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
            ASSERT_EQ(at, bytes.size());
            bytes.append(static_cast<const char *>(data), size);
            if (endpoints.empty() || endpoints.back() != endpoint) endpoints.push_back(endpoint);
        };
    }
};

inline std::string dead_url() { // a port where nobody listens any more
    const FaultServer gone([](const FaultRequest &) { return FaultReply{}; });
    return gone.url();
}

inline Options with_mirrors(const std::string &registry, const std::vector<std::string> &urls,
                            const std::string &origin) {
    Options out;
    out.connect_timeout_ns = 2'000'000'000;
    out.stall_timeout_ns = 1'000'000'000;
    for (const auto &url : urls) {
        oci::MirrorOptions mirror;
        mirror.url = url;
        out.hosts[registry].mirrors.push_back(mirror);
    }
    out.hosts[registry].url = origin;
    return out;
}

template <typename F> Error error_of(F work) {
    try {
        work();
    } catch (const Error &error) {
        return error;
    }
    return {ErrorClass::kInternal, "no error"};
}

} // namespace oci_test
