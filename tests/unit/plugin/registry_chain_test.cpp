// The chain against drivers that do as they are told: who is asked after whom, and what ends a call.
#include "core/plugin/registry_chain.h"

#include "core/base/cancel.h"

#include <gtest/gtest.h>

namespace gantry {
namespace {

/// Serves "0123456789" as any blob, up to a byte, and then fails as told.
class Source : public RegistryDriver {
  public:
    explicit Source(std::string name) : name(std::move(name)) {}
    std::string name;
    bool wants = true;
    std::optional<ErrorClass> fails, fails_fetch;
    uint64_t until = 10;
    bool ends_quietly = false;
    std::vector<std::string> has_tags;
    bool takes_pushes = false;
    int asked = 0;
    std::vector<std::pair<uint64_t, uint64_t>> fetched; // offset, length

    bool handles(const Call &, const RegistryReference &) override { return wants; }
    Descriptor resolve(const Call &, const RegistryReference &, const std::optional<Credential> &,
                       std::string *body) override {
        ++asked;
        if (body) *body += name;
        if (fails) throw Error(*fails, "resolve: " + name + " says no", "ask " + name);
        return {"m", "sha256:" + name, 1, name};
    }
    void fetch(const Call &, const Fetch &what, const BlobSink &sink) override {
        ++asked;
        fetched.emplace_back(what.offset, what.length);
        const std::string bytes = "0123456789";
        const uint64_t end = what.length ? what.offset + what.length : bytes.size();
        for (uint64_t at = what.offset; at < std::min(end, until); ++at)
            sink(name, at, &bytes[at], 1);
        if (until < end && ends_quietly) return;
        if (until < end || fails_fetch)
            throw Error(fails_fetch.value_or(ErrorClass::kUnavailable), "fetch: " + name + " is gone");
    }
    void push(const Call &call, const Push &what, const BlobSource &source) override {
        if (!takes_pushes) return RegistryDriver::push(call, what, source);
        ++asked;
        if (fails) throw Error(*fails, "push: " + name + " says no");
    }
    std::vector<std::string> tags(const Call &, const RegistryReference &,
                                  const std::optional<Credential> &) override {
        ++asked;
        if (fails) throw Error(*fails, "tags: " + name + " says no");
        return has_tags;
    }
    std::vector<EndpointLine> explain(const Call &, const RegistryReference &) override {
        if (fails) throw Error(*fails, "explain: " + name + " says no");
        EndpointLine line;
        line.url = name;
        line.reason = "because";
        return {line};
    }
};

struct ChainTest : testing::Test {
    std::shared_ptr<Source> a = std::make_shared<Source>("a"), b = std::make_shared<Source>("b"),
                            c = std::make_shared<Source>("c");
    std::shared_ptr<RegistryDriver> chain = make_registry_chain({{"a", a}, {"b", b}, {"c", c}});
    CallScope call;
    const RegistryReference ref{"r.example", "x", "t", ""};

    ErrorClass class_of(const std::function<void()> &work, std::string *message = nullptr) {
        try {
            work();
        } catch (const Error &error) {
            if (message) *message = error.message() + " | " + error.hint();
            return error.error_class();
        }
        ADD_FAILURE() << "nothing was thrown";
        return ErrorClass::kInternal;
    }
    std::string fetch(uint64_t offset, uint64_t length, std::vector<std::string> *from = nullptr) {
        std::string out;
        Fetch what;
        what.from = ref;
        what.descriptor = {"m", "sha256:x", 10, ""};
        what.offset = offset;
        what.length = length;
        chain->fetch(call, what,
                     [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                         EXPECT_EQ(at, offset + out.size());
                         out.append(static_cast<const char *>(data), size);
                         if (from && (from->empty() || from->back() != endpoint)) from->push_back(endpoint);
                     });
        return out;
    }
};

TEST_F(ChainTest, OneDriverIsItself) { EXPECT_EQ(make_registry_chain({{"a", a}}), a); }

TEST_F(ChainTest, TheFirstWithAnAnswerResolves) {
    std::string body;
    EXPECT_EQ(chain->resolve(call, ref, {}, &body).endpoint, "a");
    EXPECT_EQ(b->asked + c->asked, 0);
    for (const ErrorClass passing :
         {ErrorClass::kNotFound, ErrorClass::kUnavailable, ErrorClass::kUnsupported, ErrorClass::kDataLoss,
          ErrorClass::kDeadline}) {
        a->fails = passing;
        b->wants = false;
        EXPECT_EQ(chain->resolve(call, ref, {}, &body).endpoint, "c");
        EXPECT_EQ(body, "c"); // nothing of those before
    }
}

TEST_F(ChainTest, ARefusalIsTheLastWord) {
    for (const ErrorClass final : {ErrorClass::kPermissionDenied, ErrorClass::kInvalidArgument,
                                   ErrorClass::kInternal, ErrorClass::kNoSpace, ErrorClass::kCancelled}) {
        a->fails = a->fails_fetch = final;
        a->until = 0;
        EXPECT_EQ(class_of([&] { chain->resolve(call, ref, {}, nullptr); }), final);
        EXPECT_EQ(class_of([&] { fetch(0, 0); }), final);
        EXPECT_EQ(class_of([&] { chain->tags(call, ref, {}); }), final);
    }
    EXPECT_EQ(b->asked + c->asked, 0);
}

TEST_F(ChainTest, AnExpiredCallEndsWithItsDeadline) {
    CallScope::Settings settings;
    settings.timeout_ns = 1;
    const CallScope late(settings);
    a->fails = ErrorClass::kDeadline;
    EXPECT_EQ(class_of([&] { chain->resolve(late, ref, {}, nullptr); }), ErrorClass::kDeadline);
    EXPECT_EQ(b->asked, 0);
}

TEST_F(ChainTest, FailuresAreOneErrorOfTheMostTellingClass) {
    std::string message;
    a->fails = ErrorClass::kNotFound;
    b->fails = ErrorClass::kUnsupported;
    c->fails = ErrorClass::kNotFound;
    EXPECT_EQ(class_of([&] { chain->resolve(call, ref, {}, nullptr); }, &message), ErrorClass::kNotFound);
    EXPECT_EQ(message, "resolve r.example/x:t: driver a: resolve: a says no; driver c: resolve: c says no | "
                       "ask c");
    c->fails = ErrorClass::kUnavailable;
    EXPECT_EQ(class_of([&] { chain->resolve(call, ref, {}, nullptr); }), ErrorClass::kUnavailable);
    a->wants = b->wants = c->wants = false;
    EXPECT_FALSE(chain->handles(call, ref));
    EXPECT_EQ(class_of([&] { chain->resolve(call, ref, {}, nullptr); }), ErrorClass::kNotFound);
}

TEST_F(ChainTest, AFetchGoesOnAtTheByteReached) {
    a->until = 3;
    b->until = 3; // has nothing to add
    std::vector<std::string> from;
    EXPECT_EQ(fetch(0, 0, &from), "0123456789");
    EXPECT_EQ(from, (std::vector<std::string>{"a", "c"}));
    EXPECT_EQ(b->fetched.at(0), (std::pair<uint64_t, uint64_t>{3, 0}));
    EXPECT_EQ(c->fetched.at(0), (std::pair<uint64_t, uint64_t>{3, 0}));
    EXPECT_EQ(fetch(2, 5), "23456");
    EXPECT_EQ(c->fetched.at(1), (std::pair<uint64_t, uint64_t>{3, 4}));
    a->ends_quietly = true; // a driver that believes it is done
    EXPECT_EQ(fetch(0, 0), "0123456789");
}

TEST_F(ChainTest, TheReceiversNoIsNoFailureOfADriver) {
    Fetch what;
    what.from = ref;
    what.descriptor = {"m", "sha256:x", 10, ""};
    EXPECT_EQ(class_of([&] {
                  chain->fetch(call, what, [](const std::string &, uint64_t, const void *, size_t) {
                      throw Error(ErrorClass::kUnavailable, "write: the disk is away");
                  });
              }),
              ErrorClass::kUnavailable);
    EXPECT_EQ(b->asked, 0);
}

TEST_F(ChainTest, ARangeThatNobodyGivesIsUnsupported) {
    a->until = b->until = c->until = 0;
    a->fails_fetch = ErrorClass::kNotFound;
    b->fails_fetch = ErrorClass::kUnsupported;
    c->fails_fetch = ErrorClass::kNotFound;
    EXPECT_EQ(class_of([&] { fetch(4, 2); }), ErrorClass::kUnsupported);
    EXPECT_EQ(class_of([&] { fetch(0, 0); }), ErrorClass::kNotFound);
}

TEST_F(ChainTest, PushesHaveOneOwner) {
    b->takes_pushes = c->takes_pushes = true;
    Push what;
    what.to = ref;
    const BlobSource source = [](uint64_t, void *, size_t) -> size_t { return 0; };
    chain->push(call, what, source);
    b->fails = ErrorClass::kUnavailable;
    EXPECT_EQ(class_of([&] { chain->push(call, what, source); }), ErrorClass::kUnavailable);
    EXPECT_EQ(c->asked, 0);
    EXPECT_EQ(class_of([&] { chain->login(call, {}); }), ErrorClass::kUnsupported);
}

TEST_F(ChainTest, TagsAreUnited) {
    a->has_tags = {"1", "2"};
    b->fails = ErrorClass::kUnavailable;
    c->has_tags = {"2", "3"};
    EXPECT_EQ(chain->tags(call, ref, {}), (std::vector<std::string>{"1", "2", "3"}));
    a->fails = c->fails = ErrorClass::kNotFound;
    EXPECT_EQ(class_of([&] { chain->tags(call, ref, {}); }), ErrorClass::kUnavailable);
}

TEST_F(ChainTest, ExplainNamesTheDriverOfEachLine) {
    b->wants = false;
    c->fails = ErrorClass::kInternal;
    const auto lines = chain->explain(call, ref);
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0].url + "|" + lines[0].reason, "a|driver a: because");
    EXPECT_EQ(lines[1].state + "|" + lines[1].reason, "passed over|driver b: does not want this registry");
    EXPECT_EQ(lines[2].state + "|" + lines[2].reason, "failed|driver c: explain: c says no");
}

} // namespace
} // namespace gantry
