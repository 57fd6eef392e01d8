import * as sdk from "@daytona/sdk";
import { suite } from "../suite.mjs";
import { newer } from "../newer.mjs";

suite(sdk);
newer(sdk);
