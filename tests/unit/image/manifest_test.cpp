// Manifests, indexes and configs from hostile hands.
#include "core/image/manifest.h"

#include <gtest/gtest.h>

namespace {

using namespace gantry;

const std::string kDigest = "sha256:" + std::string(64, 'b');
const std::string kConfig = R"("config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":")" +
                            kDigest + R"(","size":10})";
std::string layer(const std::string &type, const std::string &digest = kDigest,
                  const std::string &size = "5") {
    return R"({"mediaType":")" + type + R"(","digest":")" + digest + R"(","size":)" + size + "}";
}
const std::string kGzip = "application/vnd.oci.image.layer.v1.tar+gzip";
std::string manifest(const std::string &layers) {
    return R"({"schemaVersion":2,)" + kConfig + R"(,"layers":[)" + layers + "]}";
}

ErrorClass class_of(const std::string &json, const std::string &type = "") {
    try {
        parse_manifest(json, type);
    } catch (const Error &error) {
        return error.error_class();
    }
    return ErrorClass::kInternal;
}

TEST(Manifest, Oci) {
    const auto m = parse_manifest(
        manifest(layer(kGzip) + "," + layer("application/vnd.oci.image.layer.v1.tar+zstd")), "");
    EXPECT_FALSE(m.is_index);
    EXPECT_EQ(m.layers.size(), 2u);
    EXPECT_EQ(m.config.digest, kDigest);
    EXPECT_EQ(m.layers[0].size, 5u);
}

TEST(Manifest, Malformed) {
    const std::string invalid[] = {
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"schemaVersion\":3}",
        manifest("1"),
        manifest("{}"),
        manifest(layer(kGzip, "sha256:../../x")),
        manifest(layer(kGzip, kDigest, "-1")),
        manifest(layer(kGzip, kDigest, "99999999999999999999")),
        manifest(layer(kGzip, kDigest, "\"5\"") + ",{}"),
        R"({"schemaVersion":2,"layers":[]})",
        R"({"schemaVersion":2,)" + kConfig + "}",
        R"({"schemaVersion":2,)" + kConfig + R"(,"layers":{}})",
        R"({"schemaVersion":2,"manifests":[],)" + kConfig + R"(,"layers":[]})",
        std::string(100, '[') + std::string(100, ']'),
        "{\"a\":" + std::string(1000, '['),
    };
    for (const auto &json : invalid)
        EXPECT_EQ(class_of(json), ErrorClass::kInvalidArgument) << json;
    std::string many = layer(kGzip);
    for (size_t i = 0; i < kMaxLayers; ++i)
        many += "," + layer(kGzip);
    EXPECT_EQ(class_of(manifest(many)), ErrorClass::kInvalidArgument);
}

TEST(Manifest, Unsupported) {
    EXPECT_EQ(class_of(R"({"schemaVersion":1,"fsLayers":[]})"), ErrorClass::kUnsupported);
    EXPECT_EQ(class_of(manifest(layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"))),
              ErrorClass::kUnsupported);
    EXPECT_EQ(class_of(R"({"schemaVersion":2,"mediaType":"application/x","layers":[]})"),
              ErrorClass::kUnsupported);
    EXPECT_EQ(
        class_of(
            R"({"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":")" +
            kDigest + R"(","size":1},"layers":[]})"),
        ErrorClass::kUnsupported);
}

TEST(Manifest, PlatformChoice) {
    auto entry = [](char digit, const std::string &platform) {
        return R"({"mediaType":"application/vnd.oci.image.manifest.v1+json","size":9,"digest":"sha256:)" +
               std::string(64, digit) + R"(","platform":)" + platform + "}";
    };
    const auto index = parse_manifest(
        R"({"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[)" +
            entry('1', R"({"os":"unknown","architecture":"unknown"})") + "," +
            entry('2', R"({"os":"linux","architecture":"amd64","variant":"v3"})") + "," +
            entry('3', R"({"os":"linux","architecture":"amd64"})") + "," +
            entry('4', R"({"os":"linux","architecture":"arm64","variant":"v8"})") + "," +
            entry('5', R"({"os":"linux","architecture":"arm","variant":"v6"})") + "," +
            entry('6', R"({"os":"linux","architecture":"arm","variant":"v7"})") + "]}",
        "");
    ASSERT_TRUE(index.is_index);
    auto chosen = [&](const std::string &platform) {
        return choose_platform(index, parse_platform(platform)).digest[7];
    };
    EXPECT_EQ(chosen("linux/amd64"), '3');
    EXPECT_EQ(chosen("amd64"), '3');
    EXPECT_EQ(chosen("linux/amd64/v3"), '2');
    EXPECT_EQ(chosen("linux/arm64"), '4');
    EXPECT_EQ(chosen("linux/arm64/v8"), '4');
    EXPECT_EQ(chosen("linux/arm/v7"), '6');
    EXPECT_EQ(chosen("linux/arm"), '5');
    try {
        choose_platform(index, parse_platform("linux/riscv64"));
        ADD_FAILURE();
    } catch (const Error &error) {
        EXPECT_EQ(error.message(), "no matching manifest for linux/riscv64 in the manifest list entries");
    }
    for (const char *bad : {"linux/", "/", "a/b/c/d", "LINUX/amd64", "linux amd64"})
        EXPECT_THROW(parse_platform(bad), Error) << bad;
}

TEST(Config, Everything) {
    const auto info = parse_config(R"({"os":"linux","architecture":"amd64","created":"2024-01-02T03:04:05Z",
        "config":{"User":"u","Env":["A=b",7],"Cmd":["x"],"Entrypoint":null,"ExposedPorts":{"80/tcp":{}},"Labels":{"k":"v"},
        "Volumes":{"/v":{}},"Healthcheck":{"Test":["CMD","t"],"Interval":1000,"Retries":3}},
        "rootfs":{"type":"layers","diff_ids":[")" +
                                   kDigest + R"("]}})");
    EXPECT_EQ(info.config.env, std::vector<std::string>{"A=b"});
    EXPECT_EQ(info.config.exposed_ports, std::vector<std::string>{"80/tcp"});
    EXPECT_EQ(info.config.labels.at("k"), "v");
    EXPECT_EQ(info.config.healthcheck->retries, 3);
    EXPECT_EQ(info.created_ns, 1704164645000000000);
    EXPECT_EQ(info.diff_ids.size(), 1u);
    EXPECT_TRUE(parse_config(R"({"config":null})").config.cmd.empty());
    EXPECT_THROW(parse_config(R"({"rootfs":{"diff_ids":["x"]}})"), Error);
    EXPECT_THROW(parse_config("[]"), Error);
}

TEST(ImportConfig, Changes) {
    ImportConfig from;
    from.diff_id = kDigest;
    from.platform = {"linux", "amd64", ""};
    from.changes = {"CMD [\"a\",\"b c\"]", "ENTRYPOINT run it", "ENV A=1 B=\"2 3\"", "env A=9",
                    "EXPOSE 80 53/udp",    "WORKDIR /w",        "USER 1:2",          "LABEL k=v",
                    "VOLUME [\"/v\"]",     "STOPSIGNAL SIGINT"};
    const auto c = parse_config(make_import_config(from)).config;
    EXPECT_EQ(c.cmd, (std::vector<std::string>{"a", "b c"}));
    EXPECT_EQ(c.entrypoint, (std::vector<std::string>{"/bin/sh", "-c", "run it"}));
    EXPECT_EQ(c.env, (std::vector<std::string>{"B=2 3", "A=9"}));
    EXPECT_EQ(c.exposed_ports, (std::vector<std::string>{"80/tcp", "53/udp"}));
    EXPECT_EQ(c.working_dir, "/w");
    EXPECT_EQ(c.user, "1:2");
    EXPECT_EQ(c.volumes, std::vector<std::string>{"/v"});
    EXPECT_EQ(c.stop_signal, "SIGINT");
    for (const char *bad : {"", "CMD", "RUN x", "ENV", "EXPOSE 99999", "FROM x"}) {
        from.changes = {bad};
        EXPECT_THROW(make_import_config(from), Error) << bad;
    }
}

} // namespace
