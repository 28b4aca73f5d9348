// Rules of trust and cosign's signatures: what counts, what does not, and what is said about it.
#include "core/base/files.h"
#include "core/config/config.h"
#include "tests/unit/image/signing.h"

#include <cstdlib>
#include <gtest/gtest.h>

namespace gantry {
namespace {

const std::string kImage = sha256_of("an image"), kOther = sha256_of("another image"),
                  kPlatform = sha256_of("its manifest for one platform");
constexpr const char *kArtifact = "application/vnd.dev.cosign.artifact.sig.v1+json";

ImageReference ref_of(const std::string &text) { return parse_reference(text, "docker.io", true); }

TrustPolicy::Rule rule_of(const std::vector<const TestKey *> &keys) {
    TrustPolicy::Rule out;
    out.name = "rule";
    out.what.require = TrustRequire::kSignature;
    for (const TestKey *key : keys)
        for (PublicKey &one : PublicKey::parse(key->public_pem(), "k" + std::to_string(out.keys.size() + 1)))
            out.keys.push_back(std::move(one));
    return out;
}

TestSignature made_by(const TestKey &key, const std::string &digest = kImage,
                      const std::string &reference = "r.example/app") {
    const std::string payload = payload_for(digest, reference);
    return {payload, encode_base64(key.sign(payload))};
}

/// "trusted", or what is wrong.
std::string verdict(const TrustPolicy::Rule &rule, FakeSignatures &store,
                    const std::string &name = "r.example/app:v1") {
    const TrustReport report = judge_trust(rule, ref_of(name), {kImage, kPlatform}, &store);
    EXPECT_EQ(report.trusted, report.problem.empty());
    return report.trusted ? "trusted" : report.problem;
}

const TestKey &ec() {
    static const TestKey key("P-256");
    return key;
}
const TestKey &ed() {
    static const TestKey key("ed25519");
    return key;
}
const TestKey &stranger() {
    static const TestKey key("P-256");
    return key;
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(PublicKeys, BothAlgorithmsVerifyWhatTheySigned) {
    for (const TestKey *key : {&ec(), &ed()}) {
        const PublicKey parsed = PublicKey::parse(key->public_pem(), "k").at(0);
        const std::string signature = key->sign("words");
        EXPECT_TRUE(parsed.verify("words", signature)) << parsed.algorithm();
        EXPECT_FALSE(parsed.verify("other words", signature));
        EXPECT_FALSE(parsed.verify("words", ""));
        EXPECT_FALSE(parsed.verify("words", signature + "x"));
        for (size_t at = 0; at < signature.size(); at += 7) {
            std::string bent = signature;
            bent[at] = char(bent[at] ^ 4);
            EXPECT_FALSE(parsed.verify("words", bent)) << at;
        }
        EXPECT_FALSE(parsed.verify("words", stranger().sign("words")));
    }
}

TEST(PublicKeys, SeveralInOneFileAndWhatIsRefused) {
    EXPECT_EQ(PublicKey::parse(ec().public_pem() + "a comment\n" + ed().public_pem(), "k").size(), 2u);
    const auto refusal = [](const std::string &pem) -> std::string {
        try {
            PublicKey::parse(pem, "k");
        } catch (const Error &error) {
            return error.message();
        }
        return "accepted";
    };
    EXPECT_HAS(refusal(""), "no PEM block");
    EXPECT_HAS(refusal("no key"), "no PEM block");
    EXPECT_HAS(refusal(ec().private_pem()), "this is a private key");
    EXPECT_HAS(refusal(TestKey("rsa").public_pem()), "a key of type RSA cannot be used");
    EXPECT_HAS(refusal(TestKey("P-384").public_pem()), "a key of type EC cannot be used");
    std::string broken = ed().public_pem();
    broken[40] = '*';
    EXPECT_HAS(refusal(broken), "no PEM block");
    EXPECT_HAS(refusal(ec().public_pem() + broken), "no PEM block");
    EXPECT_HAS(refusal(std::string(kMaxKeyFileBytes + 1, 'x')), "larger than 64 KiB");
}

TEST(Signatures, AreFoundByTagReferrersAndFallbackTag) {
    for (const TestKey *key : {&ec(), &ed()}) {
        const TrustPolicy::Rule rule = rule_of({key});
        FakeSignatures tagged, referred, fallback, simple;
        tagged.by_tag(kImage, {made_by(*key)});
        EXPECT_EQ(verdict(rule, tagged), "trusted");
        EXPECT_EQ(tagged.asked, 2) << "the tag and the payload are enough";
        referred.indexes[kImage] = referred.by_referrer({made_by(*key)}, kArtifact);
        EXPECT_EQ(verdict(rule, referred), "trusted");
        fallback.tags[FakeSignatures::dashed(kImage)] = fallback.by_referrer({made_by(*key)}, kArtifact);
        EXPECT_EQ(verdict(rule, fallback), "trusted");
        simple.indexes[kImage] =
            simple.by_referrer({made_by(*key)}, "application/vnd.dev.cosign.simplesigning.v1+json");
        EXPECT_EQ(verdict(rule, simple), "trusted");
    }
}

TEST(Signatures, OfTheChosenManifestCountToo) {
    FakeSignatures store;
    store.by_tag(kPlatform, {made_by(ec(), kPlatform)});
    EXPECT_EQ(verdict(rule_of({&ec()}), store), "trusted");
}

TEST(Signatures, ThatDoNotCountSayWhy) {
    const TrustPolicy::Rule rule = rule_of({&ec(), &ed()});
    FakeSignatures none;
    EXPECT_HAS(verdict(rule, none), "no signature of it was found");

    FakeSignatures others;
    others.by_tag(kImage, {made_by(stranger())});
    EXPECT_HAS(verdict(rule, others),
               "1 signature was found, of which none can be used: it was made with none");

    FakeSignatures digest;
    digest.by_tag(kImage, {made_by(ec(), kOther)});
    EXPECT_HAS(verdict(rule, digest),
               "the signature by k1 does not count: it is for another image, " + kOther);

    FakeSignatures repository;
    repository.by_tag(kImage, {made_by(ed(), kImage, "r.example/evil")});
    EXPECT_HAS(verdict(rule, repository),
               "the signature by k2 does not count: it was made for \"r.example/evil\"");

    FakeSignatures tampered;
    TestSignature bent = made_by(ec(), kOther);
    bent.payload = payload_for(kImage, "r.example/app");
    tampered.by_tag(kImage, {bent});
    EXPECT_HAS(verdict(rule, tampered), "made with none of the keys");

    FakeSignatures base64;
    base64.by_tag(kImage, {{payload_for(kImage, "r.example/app"), "MEUC*Q=="}});
    EXPECT_HAS(verdict(rule, base64), "its signature is not base64");

    FakeSignatures bare;
    bare.by_tag(kImage, {{payload_for(kImage, "r.example/app"), ""}});
    EXPECT_HAS(verdict(rule, bare), "no signature beside its payload");

    FakeSignatures no_json;
    no_json.by_tag(kImage, {{"{", encode_base64(ec().sign("{"))}});
    EXPECT_HAS(verdict(rule, no_json), "not valid JSON");

    FakeSignatures no_type;
    const std::string untyped = R"({"critical":{"image":{"docker-manifest-digest":")" + kImage + "\"}}}";
    no_type.by_tag(kImage, {{untyped, encode_base64(ec().sign(untyped))}});
    EXPECT_HAS(verdict(rule, no_type), "its type is \"\"");

    FakeSignatures large;
    const std::string huge = payload_for(kImage, std::string(kMaxPayloadBytes, 'a'));
    large.by_tag(kImage, {{huge, encode_base64(ec().sign(huge))}});
    EXPECT_HAS(verdict(rule, large), "the digest or size of its payload is bad");

    FakeSignatures junk;
    junk.tags[FakeSignatures::dashed(kImage) + ".sig"] = "<html>";
    EXPECT_HAS(verdict(rule, junk), "could not be looked for: read manifest of signatures: not valid JSON");

    FakeSignatures deep;
    deep.tags[FakeSignatures::dashed(kImage) + ".sig"] =
        "{\"layers\":" + std::string(100, '[') + std::string(100, ']') + "}";
    EXPECT_HAS(verdict(rule, deep), "not valid JSON");

    FakeSignatures down;
    down.outage = "connection refused";
    const TrustReport report = judge_trust(rule, ref_of("r.example/app:v1"), {kImage}, &down);
    EXPECT_TRUE(report.unreachable);
    EXPECT_HAS(report.problem, "could not be looked for: connection refused");
    EXPECT_FALSE(judge_trust(rule, ref_of("r.example/app:v1"), {kImage}, nullptr).trusted);
}

TEST(Signatures, AGoodOneAmongBadOnesIsFound) {
    FakeSignatures store;
    store.by_tag(kImage, {made_by(stranger()), made_by(ec(), kOther), {"{", "AAAA"}, made_by(ec())});
    store.blobs.erase(sha256_of("{"));
    EXPECT_EQ(verdict(rule_of({&ec()}), store), "trusted");
}

TEST(Signatures, AreLimitedInNumber) {
    FakeSignatures store;
    std::vector<TestSignature> many(kMaxSignatures + 1, made_by(stranger()));
    many.back() = made_by(ec());
    store.by_tag(kImage, many);
    EXPECT_HAS(verdict(rule_of({&ec()}), store), "64 signatures were found");
    EXPECT_LT(store.asked, 5) << "one payload is fetched once";
}

TEST(Signatures, ThresholdCountsDifferentKeys) {
    TrustPolicy::Rule rule = rule_of({&ec(), &ed()});
    rule.what.threshold = 2;
    FakeSignatures twice, both;
    twice.by_tag(kImage, {made_by(ec()), made_by(ec())});
    EXPECT_HAS(verdict(rule, twice), "only 1 of the 2 keys it needs signed it");
    both.by_tag(kImage, {made_by(ec())});
    both.indexes[kImage] = both.by_referrer({made_by(ed())}, kArtifact);
    EXPECT_EQ(verdict(rule, both), "trusted");
}

TEST(Signatures, MatchDecidesWhichNamesTheyServe) {
    struct Row {
        TrustMatch match;
        const char *made_for, *asked;
        bool good;
    } rows[] = {{TrustMatch::kRepository, "r.example/app", "r.example/app:v1", true},
                {TrustMatch::kRepository, "r.example/app:v9", "r.example/app:v1", true},
                {TrustMatch::kRepository, "R.example:443/app", "r.example/app:v1", true},
                {TrustMatch::kRepository, "index.docker.io/library/nginx", "nginx", true},
                {TrustMatch::kRepository, "r.example/app/x", "r.example/app:v1", false},
                {TrustMatch::kRepository, "r.example:5000/app", "r.example/app:v1", false},
                {TrustMatch::kRepository, "app", "r.example/app:v1", false},
                {TrustMatch::kRepository, "", "r.example/app:v1", false},
                {TrustMatch::kExact, "r.example/app:v1", "r.example/app:v1", true},
                {TrustMatch::kExact, "r.example/app:v2", "r.example/app:v1", false},
                {TrustMatch::kExact, "r.example/app", "r.example/app:v1", false},
                {TrustMatch::kAny, "", "r.example/app:v1", true},
                {TrustMatch::kAny, "elsewhere.example/b", "r.example/app:v1", true}};
    for (const Row &row : rows) {
        TrustPolicy::Rule rule = rule_of({&ed()});
        rule.what.match = row.match;
        FakeSignatures store;
        store.by_tag(kImage, {made_by(ed(), kImage, row.made_for)});
        EXPECT_EQ(verdict(rule, store, row.asked) == "trusted", row.good) << row.made_for << " " << row.asked;
    }
}

TEST(Base64, IsStrict) {
    EXPECT_EQ(decode_base64("aGVsbG8="), "hello");
    EXPECT_EQ(decode_base64("aGVsbA=="), "hell");
    EXPECT_EQ(decode_base64(""), "");
    for (const char *bad :
         {"a", "aGVsbG8", "aGVs bG8=", "aGVsbG8-", "====", "a===", "=aGVs", "aG=V", "aGVs\nbG8="})
        EXPECT_EQ(decode_base64(bad), std::nullopt) << bad;
}

class PolicyTest : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-trust-XXXXXX";
        dir = ::mkdtemp(path);
        write_file_atomically(dir + "/ec.pub", ec().public_pem(), 0644, false);
        write_file_atomically(dir + "/ed.pub", ed().public_pem(), 0644, false);
        write_file_atomically(dir + "/junk.pub", "junk", 0644, false);
    }
    void TearDown() override { remove_tree(dir); }
    TrustPolicy load(std::string text) {
        for (size_t at; (at = text.find("$D")) != std::string::npos;)
            text.replace(at, 2, dir);
        write_file_atomically(dir + "/gantry.toml", text, 0644, false);
        return TrustPolicy(EngineSettings::load({dir + "/gantry.toml", false, {}})->trust());
    }
    std::string refusal(const std::string &text) {
        try {
            load(text);
        } catch (const Error &error) {
            return error.message();
        }
        return "accepted";
    }
    std::string dir;
};

TEST_F(PolicyTest, TheMostSpecificRuleCounts) {
    const TrustPolicy policy = load(R"([trust]
default = "digest"
[trust.rules]
"docker.io" = "accept"
"docker.io/library/*" = { require = "signature", keys = ["$D/ec.pub", "$D/ed.pub"], threshold = 2 }
"docker.io/library/nginx" = "refuse"
"*.corp" = "accept"
"*.corp/secret/*" = "refuse"
"r.corp:5000" = "refuse"
)");
    const std::pair<const char *, const char *> cases[] = {
        {"nginx", "docker.io/library/nginx"},
        {"redis", "docker.io/library/*"},
        {"user/nginx", "docker.io"},
        {"Docker.io/library/nginx", "docker.io/library/nginx"},
        {"docker.io:443/user/x", "docker.io"},
        {"a.corp/x", "*.corp"},
        {"a.corp:5000/x", "*.corp"},
        {"a.corp/secret/x", "*.corp/secret/*"},
        {"a.corp/secret", "*.corp"},
        {"r.corp:5000/x", "r.corp:5000"},
        {"r.corp/x", "*.corp"},
        {"xcorp.io/x", ""},
        {"quay.io/docker.io/library/x", ""}};
    for (const auto &[name, pattern] : cases)
        EXPECT_EQ(policy.rule_for(ref_of(name)).what.pattern, pattern) << name;
    EXPECT_EQ(policy.rule_for(ref_of("redis")).keys.size(), 2u);
    EXPECT_EQ(policy.rule_for(ref_of("quay.io/x")).name, "trust.default");
}

TEST_F(PolicyTest, KeysAreReadAtOnceAndFaultsNameThePlace) {
    EXPECT_HAS(refusal("[trust.rules]\n\"a.b\" = { require = \"signature\", keys = [\"$D/no.pub\"] }\n"),
               dir + "/gantry.toml:2:42: key " + dir + "/no.pub: ");
    EXPECT_HAS(refusal("[trust]\nkeys = [\"$D/ec.pub\", \"$D/junk.pub\"]\n"),
               "/junk.pub: read public key: no PEM");
    EXPECT_HAS(
        refusal("[trust]\ndefault = \"signature\"\nthreshold = 2\nkeys = [\"$D/ec.pub\", \"$D/ec.pub\"]\n"),
        "trust.default wants signatures by 2 keys and has 1");
}

TEST_F(PolicyTest, RefusalsNameRuleDigestFindingAndWayOut) {
    const TrustPolicy policy = load(R"([trust.rules]
"a.example" = { require = "refuse", reason = "use b.example" }
"b.example" = "digest"
"c.example" = { require = "signature", keys = ["$D/ec.pub"] }
)");
    const auto said = [&](const char *name) -> std::string {
        const ImageReference ref = ref_of(name);
        FakeSignatures none;
        try {
            require_trust(judge_trust(policy.rule_for(ref), ref, {kImage}, &none), "pull");
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kPermissionDenied);
            EXPECT_FALSE(error.hint().empty());
            return error.message();
        }
        return "accepted";
    };
    const std::string place = dir + "/gantry.toml:";
    EXPECT_EQ(said("a.example/x:1"), "pull a.example/x:1 (" + kImage +
                                         "): not trusted: trust.rules.\"a.example\" (" + place +
                                         "2:1) refuses it: use b.example");
    EXPECT_EQ(said("b.example/x:1"), "pull b.example/x:1 (" + kImage +
                                         "): not trusted: trust.rules.\"b.example\" (" + place +
                                         "3:1) requires a pinned digest: no digest was asked for");
    EXPECT_EQ(said(("b.example/x@" + kImage).c_str()), "accepted");
    EXPECT_EQ(said("c.example/x:1"),
              "pull c.example/x:1 (" + kImage + "): not trusted: trust.rules.\"c.example\" (" + place +
                  "4:1) requires a signature by " + dir + "/ec.pub: no signature of it was found");
    EXPECT_EQ(said("d.example/x:1"), "accepted");
}

} // namespace
} // namespace gantry
