// Reads manifests of custom resources as a JSON list from standard input, and prints what is wrong with each.
//
// Twice: the validators know formats, bounds and enumerations, and pass over fields that they do not know; the types know
// all fields, so that a misspelt one is an error as it would be for the API server.

import path from "node:path";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const PACKAGES = {
  "gateway.envoyproxy.io": "@kubernetes-models/envoy-gateway",
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
  "networking.istio.io": "@kubernetes-models/istio",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

const manifests = JSON.parse(readFileSync(0, "utf8"));
const problems = [];
let source = "";
for (const [index, manifest] of manifests.entries()) {
  const module = `${PACKAGES[manifest.apiVersion.split("/")[0]]}/${manifest.apiVersion}`;
  const { [manifest.kind]: Model } = await import(module);
  try {
    new Model(manifest).validate();
  } catch (error) {
    problems.push(`${manifest.kind} ${manifest.metadata.name}: ${error.message}`);
  }
  source += `import { I${manifest.kind} as I${index} } from "${module}";\n`;
  source += `export const m${index}: I${index} = ${JSON.stringify(manifest)};\n`;
}

// A file that exists for the compiler only, beside the packages that it imports.
const file = path.join(path.dirname(fileURLToPath(import.meta.url)), "manifests.ts");
const options = { strict: true, noEmit: true, skipLibCheck: true, module: ts.ModuleKind.NodeNext, types: [] };
const host = ts.createCompilerHost(options);
const readable = { fileExists: host.fileExists, getSourceFile: host.getSourceFile };
host.fileExists = (name) => name === file || readable.fileExists(name);
host.getSourceFile = (name, ...rest) =>
  name === file ? ts.createSourceFile(name, source, ts.ScriptTarget.Latest) : readable.getSourceFile(name, ...rest);
for (const diagnostic of ts.getPreEmitDiagnostics(ts.createProgram([file], options, host))) {
  problems.push(ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n"));
}

for (const problem of problems) {
  console.log(problem);
}
process.exitCode = problems.length ? 1 : 0;
