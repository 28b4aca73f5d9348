// Which rule of [trust] a name falls under, and whether an image keeps it.
//
// A rule is judged once, when an image gets its name from outside (pull, load, import): before its layers
// are fetched, and always before the name exists. Names given on this host (tag, commit) are not judged, nor
// are images that are already here when a rule changes; `gantry image verify` judges those on request.
#pragma once

#include "core/image/signature.h"

#include <set>

namespace gantry {

const char *word_of(TrustRequire require);

/// One signature that was looked at.
struct TrustSignature {
    std::string source;           // the tag or manifest it was found in
    std::string digest;           // of the payload
    std::string key, fingerprint; // that verified it; "" for none
    std::string reference;        // what it was made for; known only when a key verified it
    std::string problem;          // why it does not count; "" when it does
};

/// What was found out about one image.
struct TrustReport {
    std::string reference, digest;
    std::string rule;  // 'trust.rules."docker.io/library/*"', "trust.default"
    std::string place; // "FILE:LINE:COLUMN"; "" when nothing was written
    TrustRequire require = TrustRequire::kAccept;
    std::vector<std::string> keys; // of the rule
    uint32_t threshold = 1;
    bool trusted = false;
    bool unreachable = false;  // signatures could not be looked for: another attempt may help
    std::string problem, hint; // when it is not trusted
    std::vector<TrustSignature> signatures;
};

/// The rules with their keys. Immutable, thread-safe.
class TrustPolicy {
  public:
    struct Rule {
        TrustRule what;
        std::vector<PublicKey> keys;
        std::string name, place;
        std::vector<std::string> key_names() const;
    };
    /// Reads the key files. Throws kInvalidArgument "FILE:LINE:COLUMN: ..." of the configuration.
    explicit TrustPolicy(const TrustConfig &config);
    /// The most specific rule; hosts are compared without regard to case or a port of 443.
    const Rule &rule_for(const ImageReference &ref) const;

  private:
    Rule fallback_;
    std::vector<Rule> rules_;
};

/// Judges an image by a rule. `digests`: of what the name means, first the index and then the manifest that
/// was chosen from it; a signature of either counts. `ref` is as it was asked for: its digest was pinned.
/// Without `store` no signature is looked for. Throws kCancelled only.
TrustReport judge_trust(const TrustPolicy::Rule &rule, const ImageReference &ref,
                        const std::vector<std::string> &digests, SignatureStore *store);
/// What can be said of a name alone, before anybody is asked: refuse and digest.
TrustReport judge_name(const TrustPolicy::Rule &rule, const ImageReference &ref);
/// kPermissionDenied (kUnavailable when signatures could not be looked for) with rule, digest, what was
/// found and the way out; `doing` is "pull" or "load". Returns when the report says trusted.
void require_trust(const TrustReport &report, const std::string &doing);

/// The signatures of one repository, through a registry driver. Fetches nothing larger than its limits and
/// keeps nothing. Borrowed: all but `from`.
class RegistrySignatures : public SignatureStore {
  public:
    RegistrySignatures(RegistryDriver &registry, const ImageReference &from,
                       const std::optional<Credential> &credential, const CancelSource &cancel);
    std::optional<std::string> tagged(const std::string &tag) override;
    std::optional<std::string> referrers(const std::string &digest) override;
    std::string blob(const BlobRef &blob, bool is_manifest, size_t limit) override;

  private:
    RegistryDriver &registry_;
    RegistryReference from_;
    const std::optional<Credential> &credential_;
    const CancelSource &cancel_;
};

} // namespace gantry
