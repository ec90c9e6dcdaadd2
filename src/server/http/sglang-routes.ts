/** The administrative routes in SGLang's dialect. */

import Type from "typebox";
import { Tags } from "../../options/schemas.ts";
import { engineOf } from "../pool/engine-group.ts";
import { readInput } from "./request-input.ts";
import { type Answer, Model, type RouteContext, type Routes } from "./route.ts";

const TagsInput = Type.Object({ model: Model, tags: Tags });

export function sglangRoutes({ group, limits }: RouteContext): Routes {
  // SGLang's clients release memory of idle engines only. A request that is in flight nevertheless is awaited.
  const release: Answer = async (request) => {
    const { model, tags } = await readInput(TagsInput, request, limits);
    await engineOf(group, model).sleep({ level: 1, mode: "wait", tags });
    return Response.json(null);
  };
  const resume: Answer = async (request) => {
    const { model, tags } = await readInput(TagsInput, request, limits);
    await group.wakeUp(engineOf(group, model).name, { tags });
    return Response.json(null);
  };
  return {
    "/release_memory_occupation": { GET: release, POST: release, getChangesState: true },
    "/resume_memory_occupation": { GET: resume, POST: resume, getChangesState: true },
  };
}
