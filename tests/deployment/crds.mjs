// Checks resources of KEDA, the Prometheus Operator and the External Secrets Operator, given as a JSON array on standard input,
// against the schemas of their definitions. Prints a line for each fault.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.env.DEPLOY_TOOLS + "/node/package.json"));
const packages = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  // v1 has the fields that we use of v1beta1, which is the newest that is packaged.
  "external-secrets.io/v1": "@kubernetes-models/external-secrets/external-secrets.io/v1beta1",
};

let faults = 0;
const fault = (resource, message) => {
  faults += 1;
  console.log(`${resource.kind} ${resource.metadata?.name}: ${message}`);
};

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const name = packages[resource.apiVersion];
  if (!name) {
    fault(resource, `no schema of ${resource.apiVersion}`);
    continue;
  }
  let module;
  try {
    module = await import(pathToFileURL(require.resolve(name)));
  } catch {
    module = await import(pathToFileURL(`${process.env.DEPLOY_TOOLS}/node/node_modules/${name}/index.js`));
  }
  const Kind = module[resource.kind] ?? module.default?.[resource.kind];
  if (!Kind) {
    fault(resource, "no such kind");
    continue;
  }
  try {
    const { apiVersion, kind, ...rest } = resource;
    new Kind(rest).validate();
  } catch (error) {
    fault(resource, error.message);
  }
}
process.exit(faults > 0 ? 1 : 0);
