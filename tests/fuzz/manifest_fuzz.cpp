// Any bytes as what a registry serves: manifest, index, image config, signatures; and as a key. Limits hold,
// nothing but an Error comes.
#include "core/image/manifest.h"
#include "core/image/signature.h"

#include <gantry/error.hpp>

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    try {
        const Manifest manifest = parse_manifest(text, "");
        if (manifest.layers.size() > kMaxLayers || manifest.entries.size() > kMaxIndexEntries) std::abort();
        if (manifest.is_index) (void)choose_platform(manifest, host_platform());
    } catch (const Error &) {
        // refusing is the point
    }
    try {
        (void)parse_config(text);
    } catch (const Error &) {
    }
    try {
        (void)parse_history(text);
    } catch (const Error &) {
    }
    try {
        (void)parse_platform(std::string(text));
    } catch (const Error &) {
    }
    try {
        for (const SignatureEntry &entry : parse_signature_manifest(text)) {
            if (entry.payload.size > kMaxPayloadBytes) std::abort();
            if (entry.signature.empty() == entry.problem.empty()) std::abort();
        }
    } catch (const Error &) {
    }
    try {
        if (parse_signature_index(text).size() > kMaxSignatureManifests) std::abort();
    } catch (const Error &) {
    }
    try {
        if (parse_signature_payload(text).digest.empty()) std::abort();
    } catch (const Error &) {
    }
    try {
        for (const PublicKey &key : PublicKey::parse(std::string(text), "key"))
            if (key.verify(text, text)) std::abort();
    } catch (const Error &) {
    }
    (void)decode_base64(text);
    return 0;
}
